"""A damaged file of a run is named in one message, whose remedy works."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import edges
from vitlab.commands.dispatch import run
from vitlab.runs.directory import RunDirectory

NOISE = bytes(range(256)) * 4


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def noise(file: Path) -> None:
    file.write_bytes(NOISE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"), [("summary.json", cut), ("environment.json", cut), ("data.json", noise), ("metrics.csv", noise)]
)
def test_without_the_damaged_file_the_same_command_continues(
    finished: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[Path], None]
) -> None:
    if name != "summary.json":
        (finished / "summary.json").unlink()
    damage(finished / name)
    assert run("fit", ["--config", "tiny.yaml"]) == 2
    said = capsys.readouterr().err
    assert f"error: {finished / name} is damaged" in said
    assert "Remove it" in said
    assert "is finished" not in said
    (finished / name).unlink()
    assert run("fit", ["--config", "tiny.yaml"]) == 0
    assert (finished / "summary.json").is_file()


def test_an_empty_configuration_is_named(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (finished / "config.yaml").write_bytes(b"")
    for source in ("tiny.yaml", str(finished)):
        assert run("fit", ["--config", source]) == 2
        assert f"error: {finished / 'config.yaml'} is empty" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [cut, *edges(noise)])
def test_damaged_predictions_are_named_and_written_again_by_test(
    finished: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    predictions = finished / "predictions.parquet"
    before = predictions.read_bytes()
    damage(predictions)
    assert run("export", ["--config", str(finished), "--format", "safetensors"]) == 2
    assert f"error: {predictions} is damaged" in capsys.readouterr().err
    assert run("test", [str(finished)]) == 0
    assert predictions.read_bytes() == before


@pytest.mark.parametrize("name", ["summary.json", "metrics.csv", "predictions.parquet", "environment.json", ".lock"])
@pytest.mark.parametrize("endless", ["device", "pipe"])
def test_what_has_no_end_is_not_read(finished: Path, name: str, endless: str) -> None:
    file = finished / name
    file.unlink(missing_ok=True)
    if endless == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    run_directory = RunDirectory(finished)
    readers = {"metrics.csv": "history", "predictions.parquet": "predictions", "summary.json": "summary"}
    if name in readers:
        with pytest.raises(ValueError, match=f"{name} is not a regular file"):
            getattr(run_directory, readers[name])
    else:
        assert not run_directory.environment or run_directory.writer is None
    assert run("list", []) == 0
