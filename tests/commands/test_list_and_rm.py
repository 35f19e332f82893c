"""`list` and `rm`: of runs as `fit` writes them, finished, cut short, damaged, and held by another process."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY
from vitlab.commands.dispatch import run
from vitlab.config import merge

Said = pytest.CaptureFixture[str]

HOLD = """
import sys
from pathlib import Path
from vitlab.runs.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train for two epochs as a run of a study; return the folder of the runs."""
    folder = tmp_path_factory.mktemp("list")
    settings = {"run": {"name": "digits/vit", "wandb": {"group": "My digits"}}, "trainer": {"max_epochs": 2}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(merge(TINY, settings)))
    assert run("fit", ["--config", str(folder / "tiny.yaml"), "--run.root", str(folder / "runs")]) == 0
    return folder / "runs"


@pytest.fixture
def first(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy; return the run directory."""
    shutil.copytree(trained, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs/digits/vit/seed-0")


@pytest.fixture
def held(first: Path) -> Iterator[Path]:
    """Copy the run and hold it by a process."""
    directory = first.with_name("seed-3")
    shutil.copytree(first, directory)
    command = [sys.executable, "-c", HOLD, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield directory
        process.communicate()


def rows(said: Said, *arguments: str) -> dict[str, str]:
    """Return the lines of `list` by run, and the last under the empty name."""
    said.readouterr()  # what came before is not of the list
    assert run("list", [*arguments]) == 0
    _, *lines, total = said.readouterr().out.splitlines()
    return {line.split()[0]: line for line in lines} | {"": total}


def test_each_run_has_a_line_with_its_state(first: Path, held: Path, capsys: Said) -> None:
    metrics = json.loads((first / "summary.json").read_text())["metrics"]
    for seed, change in enumerate(("partial", "unfinished", "damaged"), start=10):
        copy = first.with_name(f"seed-{seed}")
        shutil.copytree(first, copy)
        summary = copy / "summary.json"
        if change == "partial":
            summary.write_text(json.dumps(json.loads(summary.read_text()) | {"partial": ["cut short"]}))
        elif change == "unfinished":
            summary.unlink()
            lines = (copy / "metrics.csv").read_text().splitlines(keepends=True)
            (copy / "metrics.csv").write_text("".join(lines[:3]))  # of the first epoch
        else:
            summary.write_text("{")
    found = rows(capsys)
    size = sum(file.stat().st_size for file in first.rglob("*") if file.is_file()) / 1e6
    assert [name.rpartition("/")[2] for name in found] == ["seed-0", "seed-3", "seed-10", "seed-11", "seed-12", ""]
    for part in ("finished", "Supervised VisionTransformer", "2/2", f"test/top1 {metrics['test/top1']:.4f}"):
        assert part in found[str(first)]
    assert f"  {size:.1f}  20" in found[str(first)]
    assert "being written" in found[str(held)]
    assert "  partial  " in found[str(first.with_name("seed-10"))]
    assert found[str(first.with_name("seed-11"))].split()[1:5] == [
        "unfinished",
        "Supervised",
        "VisionTransformer",
        "1/2",
    ]
    assert "  damaged  " in found[str(first.with_name("seed-12"))]
    assert found[""].startswith("5 runs, ")
    assert set(rows(capsys, str(first))) == {str(first), ""}
    assert run("list", ["nowhere"]) == 2
    assert "there is no folder nowhere" in capsys.readouterr().err


def test_a_list_loads_neither_torch_nor_yaml(first: Path) -> None:
    """Of a thousand runs, each would take seconds."""
    code = (
        "import sys, yaml\n"
        "def fail(*_, **__): raise AssertionError\n"
        "yaml.load = yaml.safe_load = fail\n"
        "from vitlab.__main__ import main\n"
        "assert main(['list']) == 0\n"
        "print(*{'torch', 'numpy', 'lightning'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""
    assert str(first) in done.stdout


def test_the_name_of_a_timm_model_is_shown(tmp_path: Path, capsys: Said) -> None:
    backbone = "    backbone:\n      class_path: vitlab.models.TimmModel\n      init_args:\n        name: resnet18\n"
    config = f"trainer:\n  max_steps: 5\nmodel:\n  class_path: mine.Rotations\n  init_args:\n{backbone}"
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "environment.json").write_text("{}")
    assert "  unfinished  Rotations resnet18       0  " in rows(capsys, str(tmp_path))[str(tmp_path)]


def test_checkpoints_but_the_last_are_removed_and_the_run_is_still_of_use(first: Path, capsys: Said) -> None:
    checkpoints = first / "checkpoints"
    (checkpoints / "own").mkdir()
    for name in ("best", "previous", "step-7", "own/mine"):
        shutil.copy(checkpoints / "last.ckpt", checkpoints / f"{name}.ckpt")
    spare = [file for file in checkpoints.rglob("*.ckpt") if file.name != "last.ckpt"]
    freed = f"Freed {sum(file.stat().st_size for file in spare) / 1e6:.1f} MB."
    assert run("rm", ["--checkpoints", str(first), "--dry-run"]) == 0
    assert "checkpoints/best.ckpt, checkpoints/own/mine.ckpt, checkpoints/previous.ckpt, " in capsys.readouterr().out
    assert all(file.is_file() for file in spare)
    assert run("rm", ["--checkpoints", str(first)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == freed
    assert [file.name for file in checkpoints.rglob("*.ckpt")] == ["last.ckpt"]
    assert run("test", ["--config", str(first)]) == 0


def test_the_folder_in_which_one_is_can_be_removed(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = first.absolute()
    monkeypatch.chdir(directory)
    assert run("rm", ["."]) == 0
    assert not directory.parent.exists()


def test_a_checkpoint_that_has_to_serve_for_a_damaged_last_one_stays(first: Path, capsys: Said) -> None:
    last = first / "checkpoints/last.ckpt"
    shutil.copy(last, last.with_name("previous.ckpt"))
    last.write_bytes(last.read_bytes()[:-100])
    assert run("rm", ["--checkpoints", str(first)]) == 0
    assert last.with_name("previous.ckpt").is_file()
    last.with_name("previous.ckpt").write_bytes(b"")
    assert run("rm", ["--checkpoints", str(first)]) == 0
    assert f"{first}: nothing, 0.0 MB" in capsys.readouterr().out


def test_whole_runs_are_removed_unless_one_of_the_folders_is_none(first: Path, held: Path, capsys: Said) -> None:
    """Each answer is one message, and nothing is removed on the way to it."""
    other = Path("runs/other/seed-0")
    shutil.copytree(first, other)
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("a: 1")
    Path("link").symlink_to(other)
    for folder, message in {
        "runs/digits": "it has no config.yaml. Runs below it: runs/digits/vit/seed-0, runs/digits/vit/seed-3.",
        "mine": "mine is not a run directory: it has no environment.json",
        "link": "link is a link; give the run itself",
        "nowhere": "nowhere is not a run directory",
        str(held): f"{held} is being written by process ",
    }.items():
        assert run("rm", [str(other), folder]) == 2, folder
        assert message in capsys.readouterr().err
    assert run("rm", []) == 2
    assert run("rm", [str(other), str(other), "--dry-run"]) == 0
    assert other.is_dir()
    size = sum(file.stat().st_size for file in other.rglob("*") if file.is_file())
    capsys.readouterr()
    assert run("rm", [str(first), str(other)]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{other}, {size / 1e6:.1f} MB",
        f"Freed {2 * size / 1e6:.1f} MB.",
    ]
    assert not other.parent.exists()  # which it left empty
    assert [each.name for each in first.parent.iterdir()] == [held.name]
