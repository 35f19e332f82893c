"""RunDirectory reads what `fit` writes; a damaged file is named when it is asked for, and no sooner."""

import subprocess
import sys
from pathlib import Path

import pytest

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


def test_a_file_that_goes_while_they_are_counted_has_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("seed")
    monkeypatch.setattr("os.walk", lambda path: [(path, [], ["config.yaml", "last.ckpt.7.new"])])
    assert RunDirectory(tmp_path).size == 4


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
