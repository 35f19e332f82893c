"""Every command and every option that a message proposes works: they are collected from the texts of the package.

Texts are what is neither a docstring nor the declaration of an option. A command is run as a shell would, in a folder
with a finished run, a study and photographs; `compare` trains nothing. Where a command would take minutes, a GPU or a
cluster, its help has to list the proposed options.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY, edges
from tests.noise import make_noise
from vitlab.__main__ import COMMANDS, main
from vitlab.commands.dispatch import MODULES
from vitlab.config import merge
from vitlab.experiment.class_paths import settable
from vitlab.experiment.parser import configuration_parser
from vitlab.internals import options_of

PACKAGE = Path(__file__).parents[2] / "vitlab"
NAMES = "|".join(sorted(COMMANDS, key=len, reverse=True))
OPTION = r"(?<![\w-])--[a-z][\w.-]*\w"
COMMAND = re.compile(
    rf"(?:python -m vitlab |`|\b[Uu]se )((?:{NAMES})\b(?![:-])(?: %s)?(?: {OPTION}(?: \{{\}}| %s| …)?)*)"
)
DECLARES = ("StudyParser", "add_argument")

# What runs of each proposed command, with something for each value that it leaves open.
RUN = {
    "compare": "compare --config study.yaml",
    "compare --overwrite": "compare --help",
    "fit": "fit tiny.yaml",
    "fit --config {}": "fit --config runs/tiny/seed-0",
    "init": "init",
    "list": "list",
    "plan": "plan study.yaml --difference 1.0",
    "predict --config {} --images": "predict --config runs/tiny/seed-0 --images photos --out named",
    "predict --images": "predict runs/tiny/seed-0 --images photos --out named",
    "probe": "probe runs/tiny/seed-0",
    "robustness": "robustness --help",
    "test": "test runs/tiny/seed-0",
}


def texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts below a node, an f-string with {} for each value."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and ast.unparse(child.func).rpartition(".")[2] in DECLARES:
            continue
        if isinstance(child, ast.Constant) and isinstance(child.value, str) and not isinstance(node, ast.Expr):
            yield child.value
        elif isinstance(child, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in child.values)
        else:
            yield from texts(child)


def sentences() -> Iterator[tuple[Path, str]]:
    """Yield the texts of several words, with their file."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for text in texts(ast.parse(file.read_text(encoding="utf-8"))):
            if " " in text:
                yield file, text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in a folder with photographs, a study and a finished run."""
    place = tmp_path_factory.mktemp("proposals")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        tiny = merge(TINY, {"trainer": {"limit_train_batches": 2}})
        Path("tiny.yaml").write_text(yaml.safe_dump(tiny))
        widths = {f"w{i}": {"model": {"init_args": {"backbone": {"init_args": {"embed_dim": i}}}}} for i in (8, 16)}
        study = {"name": "s", "base": "tiny.yaml", "variants": widths, "seeds": [1, 2]}
        Path("study.yaml").write_text(yaml.safe_dump({**study, "budget": {"epochs": 1}}))
        make_noise(Path(), {"photos": 6})
        assert main(["fit", "tiny.yaml"]) == 0
        yield place


def test_every_proposed_command_is_run_here() -> None:
    found = {match[1]: file.name for file, text in sentences() for match in COMMAND.finditer(text)}
    assert set(found) == set(RUN), found


@pytest.mark.slow
@pytest.mark.parametrize("proposal", RUN)
def test_a_proposed_command_runs(
    proposal: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlab.studies.compare.compare", lambda study, *_, **__: study.resolve(strict=True))
    arguments = shlex.split(RUN[proposal])
    assert arguments[0] == proposal.split()[0]
    assert main(arguments) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out if arguments[-1] == "--help" else RUN[proposal]
    assert all(option in shown for option in re.findall(OPTION, proposal))


def test_every_proposed_option_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """In a command's own file it is the command's or, as everywhere else, one of `fit`."""
    photos = {"data": {"class_path": "vitlab.data.ImageFolder"}}
    keys = {*options_of(configuration_parser()), "--print_config", "--help", "--key", "--import"}
    keys |= {f"--{key}" for config in (TINY, photos) for key in settable(config)}
    own: dict[str, set[str]] = {}
    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        own[command] = set(re.findall(OPTION, capsys.readouterr().out))
    proposed = [(file, option) for file, text in sentences() for option in re.findall(OPTION, text)]
    assert len(proposed) > 70
    for file, option in proposed:
        shared = file.parent.name != "commands"
        known = set().union(*(own[each] for each in own if shared or MODULES.get(each, each) == file.stem))
        assert option in keys | known, f"{file}: {option}"


@pytest.mark.parametrize(
    ("command", "proposed"),
    [
        ("fit tiny.yaml", r"nothing to do \((--run.overwrite true)"),
        *edges(
            ("fit tiny.yaml", r"start a new run from its weights: (.+)"),
            ("fit tiny.yaml --model.optimizer.lr 0.5", r"replace that one with (--run.overwrite true)"),
            ("fit tiny.yaml --model.optimizer.lr 0.7", r"Give this run another (--run.name)"),
        ),
    ],
)
def test_what_a_run_proposes_can_be_added_to_its_command(
    command: str, proposed: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command.split())
    options = re.search(proposed, capsys.readouterr().err)
    assert options
    value = ["another"] if options[1].endswith("name") else []
    assert main([*command.split(), *options[1].split(), *value]) == 0
