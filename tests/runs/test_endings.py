"""However a run ends, its process ends soon, with the documented status."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from tests.conftest import edges
from vitlab.commands.dispatch import run
from vitlab.runs.record import RunRecord
from vitlab.signals import UNWRITTEN

FIT = (sys.executable, "-W", "ignore", "-m", "vitlab", "fit", "--config")
WORKERS = ("--data.hold_on_device", "false", "--data.num_workers", "2")
RUN = Path("runs/tiny/seed-0")
PATIENCE = 120  # seconds, on any machine; a process that waits for its workers never ends


def begun(config: Path, *arguments: str) -> "subprocess.Popen[str]":
    with Path("log.txt").open("w") as log:
        return subprocess.Popen([*FIT, str(config), *arguments], stdout=log, stderr=subprocess.STDOUT, text=True)


def ended(process: "subprocess.Popen[str]") -> int:
    try:
        return process.wait(PATIENCE)
    finally:
        process.kill()


@pytest.mark.slow
def test_a_run_that_stops_before_its_first_validation_ends_with_its_workers(tiny: Callable[..., Path]) -> None:
    process = begun(tiny(), *WORKERS, "--model.optimizer.lr", "1e25", "--model.schedule.warmup_epochs", "0")
    assert ended(process) == 1
    assert "the run stops" in Path("log.txt").read_text()
    assert not (RUN / ".lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGHUP, 75), (signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_a_signal_during_the_imports_ends_without_a_traceback(
    number: signal.Signals, status: int, tiny: Callable[..., Path]
) -> None:
    process = begun(tiny())
    maps = Path(f"/proc/{process.pid}/maps")
    if not maps.exists():
        process.kill()
        pytest.skip("no /proc")
    deadline = time.monotonic() + PATIENCE
    while "torch" not in maps.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert ended(process) == status
    assert "Traceback" not in Path("log.txt").read_text()
    assert not RUN.exists()


def test_a_run_without_its_last_weights_is_not_finished(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(checkpoint: object, file: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", full)
        assert run("fit", ["--config", str(tiny({"trainer": {"limit_train_batches": 2}}))]) == UNWRITTEN
    said = capsys.readouterr().err
    assert "next.ckpt" in said
    assert "the last weights are not written" in said
    assert not (RUN / "summary.json").exists()
    assert run("fit", ["--config", "tiny.yaml"]) == 0
    assert (RUN / "checkpoints/last.ckpt").is_file()
    assert (RUN / "summary.json").is_file()
    assert not (RUN / "checkpoints/previous.ckpt").exists()


@pytest.mark.parametrize(
    ("hook", "again"), [("on_train_epoch_end", True), *edges(("on_train_epoch_start", False), ("on_test_start", False))]
)
def test_a_folder_that_is_removed_ends_the_run(
    hook: str,
    again: bool,
    tiny: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where another process has made a folder of that name since, whose files stay."""

    def remove(self: RunRecord, trainer: Trainer, *args: object) -> None:
        if trainer.current_epoch or hook == "on_test_start":
            shutil.rmtree(RUN)
            if again:
                RUN.mkdir()
                (RUN / ".lock").touch()

    path = str(tiny({"trainer": {"max_epochs": 2, "limit_train_batches": 2}}))
    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, hook, remove)
        assert run("fit", ["--config", path]) == UNWRITTEN
    assert f"{RUN}: the run's folder was removed" in capsys.readouterr().err
    assert [file.name for file in RUN.rglob("*")] == ([".lock"] if again else [])
    assert run("fit", ["--config", path]) == 0
    assert (RUN / "summary.json").is_file()
