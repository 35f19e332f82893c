"""What `--help` lists, and which mistakes are answered before torch is imported."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY
from vitlab.__main__ import COMMANDS as ALL
from vitlab.__main__ import main
from vitlab.commands.dispatch import run
from vitlab.commands.help import CLASSES, SETTINGS_OF_RUN, class_names, run_options, trainer_options
from vitlab.experiment.class_names import PLACES, choices
from vitlab.experiment.parser import ConfigurationReader
from vitlab.internals import actions_of

Write = Callable[..., Path]
COMMANDS = [
    "compare",
    "plan",
    "robustness",
    "verdict",
    "claims",
    "transfer",
    "embed",
    "models",
    "benchmark",
]


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


def test_no_help_imports_torch() -> None:
    commands = [[command, "--help"] for command in ALL]
    code = f"import sys; from vitlab.__main__ import main\nfor each in {commands}: assert main(each) == 0"
    code += "\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("command", ["robustness", "verdict", "claims", "replay", "models"])
def test_a_folder_is_no_run_to_commands_that_take_none(
    command: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    main([command, "folder"])
    assert "run directory" not in capsys.readouterr().err


def test_benchmark_lists_its_own_option(capsys: pytest.CaptureFixture) -> None:
    assert run("benchmark", ["--help"]) == 0
    text = capsys.readouterr().out
    assert "--json FILE" in text
    assert "trainer" not in text  # fit's keys, which `fit --help` lists


def test_the_help_of_fit_lists_every_class_that_can_be_given() -> None:
    for key in CLASSES:
        assert set(class_names(key)) == set(choices(*PLACES[key]))


def test_the_help_of_fit_lists_the_options_of_the_parser_with_their_defaults() -> None:
    parser = ConfigurationReader(TINY, []).parser
    sections = ("--run.", "--trainer.")
    actions = {option[2:]: each for each in actions_of(parser) for option in each.option_strings}
    real = {key: each.default for key, each in actions.items() if f"--{key}".startswith(sections)}
    listed = run_options() | trainer_options()
    assert set(listed) == {key for key in real if not key.endswith((".help", "+"))} - set(SETTINGS_OF_RUN)
    assert all((real[key] or None) == (default or None) for key, (_, default) in listed.items())


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("--trainer.max_epoch 3", "no option trainer.max_epoch. Did you mean trainer.max_epochs?"),
        ("--run.wandb.mod offline", "no option run.wandb.mod. Did you mean run.wandb.mode?"),
        ("--modle.optimizer.lr 0", "no option modle.optimizer.lr. Did you mean model.optimizer.lr?"),
        ("--model Supervized", "model: no class Supervized. Did you mean Supervised?"),
        ("--model.backbone vitlab.models.vit_tny_patch4_32", "no class vit_tny_patch4_32. Did you mean vit_tiny_pat"),
        ("digit.yaml", "data: no class Digit. Did you mean Digits?"),
        ("trainr.yaml", "The configuration has no key trainr. Did you mean trainer?"),
        ("epoch.yaml", "no option trainer.max_epoch. Did you mean trainer.max_epochs?"),
    ],
)
def test_a_misspelt_name_is_answered_before_torch_is_imported(tiny: Write, mistake: str, message: str) -> None:
    tiny()
    Path("trainr.yaml").write_text("trainr: {max_epochs: 3}")
    Path("digit.yaml").write_text("data: {class_path: vitlab.data.Digit}")
    Path("epoch.yaml").write_text("trainer: {max_epoch: 3}")
    arguments = ["fit", "tiny.yaml", *mistake.split()]
    code = f"import sys; from vitlab.__main__ import main; sys.exit(main({arguments}) + ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_folder_that_cannot_be_written_is_named_with_its_option(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(tiny()), "--ckpt_path", "none"]
    Path("file").touch()
    assert run("export", [*arguments, "--out", "file/model"]) == 2
    assert "error: --out: file/model cannot be written (Not a directory); give another" in capsys.readouterr().err
    assert run("fit", [*arguments[:2], "--run.root", "file/runs"]) == 2
    assert "error: file/runs/tiny/seed-0: Not a directory." in capsys.readouterr().err
