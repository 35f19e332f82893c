"""A damaged file of a run is named in one message, whose remedy works."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.conftest import TINY
from vitlab.commands.dispatch import run
from vitlab.config import merge
from vitlab.runs.directory import RunDirectory

RUN = Path("runs/tiny/seed-0")
NOISE = bytes(range(256)) * 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("tiny.yaml").write_text(yaml.safe_dump(merge(TINY, {"trainer": {"limit_train_batches": 3}})))
        assert run("fit", ["--config", "tiny.yaml"]) == 0
    return folder


@pytest.fixture
def trained(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a copy of that folder; return the run's directory."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return RUN


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def noise(file: Path) -> None:
    file.write_bytes(NOISE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [("summary.json", cut), ("environment.json", cut), ("data.json", noise), ("metrics.csv", noise)],
)
def test_without_the_damaged_file_the_same_command_continues(
    trained: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    if name != "summary.json":
        (trained / "summary.json").unlink()
    damage(trained / name)
    assert run("fit", ["--config", "tiny.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"error: {trained / name} is damaged" in said
    assert "Remove it" in said
    assert "is finished" not in said
    (trained / name).unlink()
    assert run("fit", ["--config", "tiny.yaml"]) == 0
    assert (trained / "summary.json").is_file()


def test_an_empty_configuration_is_named(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (trained / "config.yaml").write_bytes(b"")
    for source in ("tiny.yaml", str(trained)):
        assert run("fit", ["--config", source]) == 2
        assert f"error: {trained / 'config.yaml'} is empty" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [cut, noise])
def test_damaged_predictions_are_named_and_written_again_by_test(
    trained: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    predictions = trained / "predictions.parquet"
    before = predictions.read_bytes()
    damage(predictions)
    assert run("export", ["--config", str(trained), "--format", "safetensors"]) == 2
    assert f"error: {predictions} is damaged" in capsys.readouterr().err
    assert run("test", [str(trained)]) == 0
    assert predictions.read_bytes() == before


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "predictions.parquet", "environment.json", ".lock"])
@pytest.mark.parametrize("endless", ["device", "pipe"])
def test_what_has_no_end_is_not_read(trained: Path, name: str, endless: str) -> None:
    file = trained / name
    file.unlink(missing_ok=True)
    if endless == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    run_directory = RunDirectory(trained)
    readers = {"metrics.csv": "history", "predictions.parquet": "predictions", "summary.json": "summary"}
    if name in readers:
        with pytest.raises(ValueError, match=f"{name} is not a regular file"):
            getattr(run_directory, readers[name])
    else:
        assert not run_directory.environment or run_directory.writer is None
    assert run("list", []) == 0
