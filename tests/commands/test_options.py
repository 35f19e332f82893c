"""What `--help` lists."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitlab.__main__ import COMMANDS as ALL
from vitlab.__main__ import main
from vitlab.commands.dispatch import run
from vitlab.commands.options import StudyParser
from vitlab.config import named
from vitlab.experiment.class_paths import KINDS, buildable
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.parser import configuration_parser
from vitlab.internals import options_of

Write = Callable[..., Path]
COMMANDS = ["compare", "plan", "robustness", "verdict", "transfer", "embed"]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_line_names_each_option_once(command: str, capsys: pytest.CaptureFixture) -> None:
    assert run(command.split()[0], [*command.split()[1:], "--help"]) == 0
    text = capsys.readouterr().out
    usage = text.partition("\n\n")[0]
    assert usage.startswith(f"usage: python -m vitlab {command} ")
    options = re.findall(r"^  (?:(-\w) [^,]*, )?(--[\w-]+)", text, re.MULTILINE)
    assert options
    for short, long in options:
        assert sum(len(re.findall(rf"{name}(?![\w-])", usage)) for name in (short, long) if name) == 1, (long, usage)


def test_the_help_of_what_reads_or_starts_runs_imports_no_torch() -> None:
    trains = ("fit", "validate", "test", "probe", "transfer")
    commands = [[command, "--help"] for command in ALL if command not in trains]
    code = f"import sys; from vitlab.__main__ import main\nfor each in {commands}: assert main(each) == 0"
    code += "\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def study_parser() -> StudyParser:
    parser = StudyParser("python -m vitlab compare STUDY.yaml", "")
    parser.add_argument("--overwrite", action="store_true")
    return parser


@pytest.mark.parametrize("arguments", [["--data.root"], ["--data.root", "--overwrite"], ["--data.root="]])
def test_a_setting_of_the_data_needs_a_value(arguments: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^--data.root needs a value"):
        study_parser().parse_study(["my.yaml", *arguments])
    study, options, data = study_parser().parse_study(["--data.root", "photos", "--overwrite", "my.yaml"])
    assert (study, options.overwrite, data) == (Path("my.yaml"), True, {"root": "photos"})


@pytest.mark.parametrize("root", ["0755", "1e3", "off"])
def test_a_path_stays_the_text_that_was_typed(root: str) -> None:
    *_, data = study_parser().parse_study(["my.yaml", "--data.root", root, "--data.batch_size=1e3"])
    assert data == {"root": root, "batch_size": 1000}
    given = ["--data.root", root, "--model.init_from", root, "--run.name", root]
    config = Experiment.from_arguments(["vit_cifar10", *given], images=False).config
    assert (config["data"]["init_args"]["root"], config["model"]["init_args"]["init_from"]) == (root, root)
    assert Experiment(config, images=False).config == config


def test_a_name_after_an_option_without_a_value_is_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    parser = study_parser()
    for study in ("quickstart", "my.yaml"):
        assert parser.parse_study(["--overwrite", study])[0] == Path(study)
    with pytest.raises(ValueError, match=r"no option overwrit\. Did you mean overwrite"):
        parser.parse_study(["quickstart", "--overwrit"])
    assert main(["verdict", "--better", "A", "runs/none"]) == 2
    assert "runs/none/verdict.json does not exist" in capsys.readouterr().err


def test_several_runs_come_first_or_after_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("b").mkdir()
    parser = StudyParser("python -m vitlab transfer", "")
    parser.add_argument("--sizes", nargs="+")
    for given in ("a b --sizes 8", "--config a b --sizes 8", "--sizes 8 --config a -c b", "a -c b"):
        files, _, rest = parser.parse_runs(given.split())
        assert (files, rest) == (["a", "b"], []), given
    assert parser.parse_runs(["a", "--sizes=8", "c"])[2] == ["c"]  # which no run has as an option
    with pytest.raises(ValueError, match="needs: a file, or the directory of a run"):
        parser.parse_runs(["--sizes", "8"])


def test_a_pipe_that_has_read_enough_is_no_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "vitlab", "list", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (128 + 13, "")


@pytest.mark.slow(edge=True)
def test_the_help_of_fit_lists_every_option_and_class_and_is_short() -> None:
    command = [sys.executable, "-m", "vitlab", "fit", "--help"]  # which has imported no class yet
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert len(said.splitlines()) <= 100
    assert max(map(len, said.splitlines())) <= 120
    for option in options_of(configuration_parser()):
        if option.startswith(("--run.", "--trainer.")) and not option.endswith((".help", "+")):
            below = [line for line in said.splitlines() if re.match(rf"  {option}[. ]", line)]
            assert below, option
    for key, kind in KINDS.items():
        names = [each.__name__ for each in buildable(named(kind)) if each.__module__.startswith("vitlab.")]
        assert names, key
        assert kind.startswith("lightning.") or all(name in said for name in names)


@pytest.mark.slow(edge=True)  # a process each
@pytest.mark.parametrize(
    ("option", "name", "lists"),
    [
        ("--model.help", "Supervised", "--model.label_smoothing"),
        ("--data.help", "CIFAR10", "--data.batch_size"),
        ("--model=Supervised --model.backbone.help", "SwinTransformer", "--backbone.window_size"),
    ],
)
def test_the_arguments_of_a_class_are_listed_before_anything_is_imported(option: str, name: str, lists: str) -> None:
    command = [sys.executable, "-m", "vitlab", "fit", *option.split(), name]
    assert lists in subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_folder_that_cannot_be_written_is_named_with_its_option(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(tiny()), "--ckpt_path", "none"]
    Path("file").touch()
    assert run("export", [*arguments, "--out", "file/model"]) == 2
    assert "error: file/model: Not a directory." in capsys.readouterr().err
    assert run("fit", [*arguments[:2], "--run.root", "file/runs"]) == 2
    assert "error: file/runs/tiny/seed-0: Not a directory." in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "word"), [("comp", "compare"), ("quicks", "quickstart"), ("vit_cif", "vit_cifar10")])
def test_bash_completes_commands_and_shipped_names(typed: str, word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print_completion"]) == 0
    printed = capsys.readouterr().out
    script = f"{printed}compgen -W {printed.split(chr(39))[1]!r} -- {typed}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert word in done.stdout.split()
