"""RunDirectory reads what `fit` writes; a damaged file is named when it is asked for, and no sooner."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import edges
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.runs.directory import DATA, ENVIRONMENT, METRICS, PREDICTIONS, SUMMARY, RunDirectory, run_directories
from vitlab.runs.lock import run_lock


def test_everything_that_fit_writes_is_read(finished: Path) -> None:
    read = RunDirectory(finished)
    assert read.is_run
    assert read.is_finished
    assert read.shortfalls == []
    assert read.config == load_yaml(finished / "config.yaml")
    assert read.environment["command"].startswith("python -m vitlab ")
    assert set(read.data["splits"]) == {"train", "val", "test"}
    assert read.history["step"].max() == read.summary["steps"]
    assert (read.predictions.logits.argmax(axis=1) == read.predictions.labels).mean() == pytest.approx(
        read.metrics["test/top1"]
    )
    assert read.newest_checkpoint() == read.last_checkpoint
    assert read.writer is None
    assert read.size == sum(file.stat().st_size for file in finished.rglob("*") if file.is_file())
    assert [*run_directories(Path("runs"))] == [finished]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        (SUMMARY, "summary"),
        (ENVIRONMENT, "environment"),
        (DATA, "data"),
        (METRICS, "history"),
        (PREDICTIONS, "predictions"),
    ],
)
def test_a_damaged_file_is_named_when_it_is_asked_for(finished: Path, file: str, content: str) -> None:
    (finished / file).write_bytes(bytes(range(256)))
    read = RunDirectory(finished)
    assert read.config
    with pytest.raises(ValueError, match=rf"{file} is damaged \((.|\n)+\)\. "):
        getattr(read, content)


def test_a_run_that_is_being_written_names_its_writer(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom vitlab.runs.directory import RunDirectory\n"
        "print(RunDirectory(Path(sys.argv[1])).writer)"
    )
    with run_lock(tmp_path):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"{tmp_path} is being written by process " in done.stdout
    assert RunDirectory(tmp_path).shortfalls == ["not finished"]
    assert RunDirectory(tmp_path).newest_checkpoint() is None


# A damaged file is named in one message, whose remedy works


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
