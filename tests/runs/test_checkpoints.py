"""When states are written, that they are whole, and what a full disk, a damaged file or a signal does."""

import errno
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.kills import OBJECTIVES, after, experiments, forked, last_words
from vitlab.atomic_files import flaw
from vitlab.commands.dispatch import run
from vitlab.experiment.experiment import Experiment
from vitlab.runs.checkpoints import AtomicCheckpointIO, BestCheckpoint, Checkpointing, RunCheckpoints
from vitlab.runs.directory import RunDirectory
from vitlab.runs.exactness import disagreements
from vitlab.runs.finite_steps import Check, FiniteSteps
from vitlab.runs.record import RunRecord
from vitlab.signals import UNWRITTEN

experiment = experiments  # the fixture


def state_of(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def test_a_torn_checkpoint_never_takes_the_place_of_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": 1}, path)

    def torn(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", torn)
    AtomicCheckpointIO().save_checkpoint({"step": 2}, path)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_damage_anywhere_is_seen(tmp_path: Path) -> None:
    """Of a file with one bit turned, either the checksum tells, or what it holds is what it held."""
    path, damaged = tmp_path / "whole.ckpt", tmp_path / "damaged.ckpt"
    weights = torch.arange(400.0)
    torch.save({"weights": weights, "step": 7}, path)
    assert flaw(path) is None
    whole, rng, seen = path.read_bytes(), random.Random(0), 0
    for _ in range(300):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        damaged.write_bytes(content)
        if flaw(damaged) is not None:
            seen += 1
            continue
        held = state_of(damaged)
        assert torch.equal(held["weights"], weights)
        assert held["step"] == 7
    assert seen > 150  # most of the file is its content
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        damaged.write_bytes(whole[:length])
        assert flaw(damaged) is not None


def test_the_newest_whole_state_is_taken_and_the_others_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, run = tmp_path / "checkpoints", RunDirectory(tmp_path)
    folder.mkdir()
    assert run.newest_checkpoint() is None
    for name in ("last", "previous"):
        torch.save({"name": name}, folder / f"{name}.ckpt")
    assert run.newest_checkpoint() == folder / "last.ckpt"
    (folder / "last.ckpt").write_bytes(b"PK\3\4 torn")
    with caplog.at_level("WARNING", "vitlab"):
        assert run.newest_checkpoint() == folder / "previous.ckpt"
    (folder / "previous.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no whole checkpoint.*\n.*overwrite true"):
        run.newest_checkpoint()


class _Clock:
    """Time passes as told; a checkpoint takes a second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("vitlab.runs.checkpoints.time.perf_counter", lambda: self.now)


class _Trainer(SimpleNamespace):
    """As much of a trainer as decides about checkpoints: epochs of four steps, ten of them."""

    def __init__(self, clock: _Clock) -> None:
        limits = {"max_epochs": 10, "max_steps": -1, "min_epochs": None, "min_steps": None}
        numbers = {"num_training_batches": 4, "world_size": 1, "estimated_stepping_batches": 40}
        super().__init__(**limits, **numbers, global_step=0, current_epoch=0, should_stop=False, is_last_batch=False)
        self.is_global_zero = True
        self.callbacks: list[Any] = []
        self.lightning_module = None
        self.clock, self.saved = clock, []

    def save_checkpoint(self, path: Path) -> None:
        self.clock.now += 1
        self.saved.append(self.global_step)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(self.global_step))


def simulate(monkeypatch: pytest.MonkeyPatch, folder: Path, settings: Checkpointing, seconds: float) -> list[int]:
    """Return the steps at which a run of 40 steps, each so many seconds long, writes its state."""
    clock = _Clock(monkeypatch)
    trainer: Any = _Trainer(clock)
    callback = RunCheckpoints(folder / "checkpoints", settings)
    monkeypatch.setattr(callback.signals, "listen", lambda: None)
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    for epoch in range(10):
        trainer.current_epoch = epoch
        callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
        for batch in range(4):
            callback.on_train_batch_start(trainer)
            clock.now += seconds
            trainer.global_step += 1
            callback.on_train_batch_end(trainer, None, None, None, batch)  # type: ignore[arg-type]
        callback.on_validation_start(trainer, None)  # type: ignore[arg-type]
        callback.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    callback.on_train_end(trainer, None)  # type: ignore[arg-type]
    return trainer.saved


def test_ends_of_epochs_are_written_as_often_as_their_time_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = simulate(monkeypatch, tmp_path, Checkpointing(every_n_minutes=None), seconds=15)
    assert every == [4 * (epoch + 1) for epoch in range(10)]  # 1 s in 60
    # 1 s in 4 is too much: the first, whose cost nobody knows, then once 50 s are over, and the last.
    assert simulate(monkeypatch, tmp_path, Checkpointing(), seconds=1) == [4, 40]
    assert simulate(monkeypatch, tmp_path, Checkpointing(max_time_share=0.1), seconds=1) == [4, 16, 28, 40]


def test_states_within_an_epoch_are_written_by_steps_and_by_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_steps = simulate(monkeypatch, tmp_path, Checkpointing(every_n_steps=3), seconds=1)
    # 12, 24 and 36 end an epoch, whose validation is still to come; at its end the last is too young.
    assert by_steps == [3, 6, 9, 15, 18, 21, 27, 30, 33, 39, 40]
    by_minutes = simulate(monkeypatch, tmp_path, Checkpointing(every_n_minutes=1), seconds=45)
    assert by_minutes[:4] == [2, 4, 6, 8]
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    assert (tmp_path / "checkpoints/last.ckpt").read_text() == "40"


def test_states_that_others_branch_off_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulate(monkeypatch, tmp_path, Checkpointing(keep=(6, 12)), seconds=1) == [4, 6, 12, 40]  # 12 ends an epoch
    for step in (6, 12):
        assert (tmp_path / f"checkpoints/step-{step}.ckpt").read_text() == str(step)


def test_a_state_that_cannot_be_kept_is_reported_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("vitlab.runs.checkpoints.shutil.copyfileobj", full)
    with caplog.at_level("WARNING", "vitlab"):
        simulate(monkeypatch, tmp_path, Checkpointing(keep=(6,)), seconds=1)
        with pytest.raises(SystemExit) as stopped:
            simulate(monkeypatch, tmp_path / "stop", Checkpointing(keep=(6,), on_failure="stop"), seconds=1)
    assert stopped.value.code == UNWRITTEN
    assert "step-6.ckpt could not be kept ([Errno 28] No space left on device" in caplog.messages[0]
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_no_state_is_written_after_a_step_that_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU the check of the last step may still be on its way; the state would be continued, without that step."""
    trainer: Any = _Trainer(_Clock(monkeypatch))
    finite = FiniteSteps("skip")
    finite._pending = Check(torch.tensor(False), 0, 0, 0)
    trainer.callbacks = [finite]
    callback = RunCheckpoints(tmp_path / "checkpoints", Checkpointing())
    callback._write(trainer)
    assert finite.state_dict() == {"left_out": 1}
    finite.action, finite._pending = "stop", Check(torch.tensor(False), 1, 0, 1)
    trainer.is_global_zero, trainer.saved = False, []
    with pytest.raises(SystemExit):
        callback._write(trainer)
    assert trainer.saved == []


def test_a_best_state_needs_a_metric_and_validation(
    tiny: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    best = {"run": {"checkpoint": {"best": True}}}
    for changes, reason in (
        ({"trainer": {"limit_val_batches": 0}}, "there is no validation metric"),
        (OBJECTIVES["dino"], "there is no validation metric"),
    ):
        with caplog.at_level("WARNING", "vitlab"):
            assert Experiment(tiny(best | changes)).trainer
        assert f"no best.ckpt is kept, since {reason}" in caplog.text.replace("trainer.", "")


class LoggedOnce(Callback):
    """Logs a metric in the first epoch alone."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            pl_module.log("val/once", 0.25)


@pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out
def test_a_metric_of_an_early_epoch_is_in_the_summary_however_often_the_run_was_continued(
    tiny: Callable[..., Path],
) -> None:
    path = tiny({"trainer": {"max_epochs": 3, "limit_train_batches": 2, "callbacks": [f"{__name__}.LoggedOnce"]}})
    for epoch in (1, 2):
        with pytest.raises(SystemExit):
            Experiment(path, f"run.checkpoint.pause_after={epoch}").fit()
    assert Experiment(path).fit()["val/once"] == 0.25


def test_the_best_state_is_known_where_the_run_was_moved(tmp_path: Path) -> None:
    """Lightning forgets it if the folder has another name, and writes over it."""
    folders = [tmp_path / name for name in ("before", "after")]
    for folder in folders:
        folder.mkdir()
    old, new = (BestCheckpoint(dirpath=folder, filename="best", monitor="val/top1", mode="max") for folder in folders)
    path = str(folders[0] / "best.ckpt")
    old.best_model_path = old.kth_best_model_path = path
    old.best_k_models, old.kth_value = {path: torch.tensor(0.3)}, torch.tensor(0.3)
    old.best_model_score = torch.tensor(0.3)
    assert old.state_key == new.state_key
    new.load_state_dict(old.state_dict())
    trainer, worse = Trainer(logger=False, accelerator="cpu"), torch.tensor(0.1)
    assert new.check_monitor_top_k(trainer, worse)  # no file: the next is best
    (folders[1] / "best.ckpt").touch()
    new.load_state_dict(old.state_dict())
    assert new.best_model_path == str(folders[1] / "best.ckpt")
    assert not new.check_monitor_top_k(trainer, worse)
    assert new.check_monitor_top_k(Trainer(logger=False, accelerator="cpu"), torch.tensor(0.4))


@pytest.mark.slow
@pytest.mark.parametrize("on_failure", ["continue", "stop"])
def test_a_full_disk_leaves_the_earlier_state_and_is_reported(experiment: Callable[..., Path], on_failure: str) -> None:
    """Full for files beyond 50 kB, from the third state on: `RLIMIT_FSIZE`, which a real write meets."""
    path = experiment("supervised")

    def full(*args: object, **kwargs: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))

    arguments = ["--config", str(path), "--run.checkpoint.on_failure", on_failure]
    status = forked(arguments, lambda: after(RunCheckpoints, "_write", 2, full))
    assert status == UNWRITTEN, last_words()
    folder = Path("runs/supervised/seed-0")
    assert "No checkpoint could be written at step" in last_words()
    assert flaw(folder / "checkpoints/last.ckpt") is None
    assert not list(folder.rglob("*.new"))
    assert not (folder / "summary.json").exists()
    assert forked(["--config", str(path), "--run.root", "whole"]) == 0, last_words()
    assert forked(["--config", str(path)]) == 0, last_words()
    assert disagreements(Path("whole/supervised/seed-0"), folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "moment", "status"),
    [
        (signal.SIGTERM, "on_train_batch_end", 75),
        (signal.SIGUSR1, "on_validation_batch_start", 75),
        (signal.SIGHUP, "on_train_batch_end", 75),
        (signal.SIGINT, "on_train_batch_start", 130),
        (signal.SIGTERM, "on_test_batch_start", 75),
    ],
)
def test_a_signal_writes_the_state_and_ends_with_its_status(
    experiment: Callable[..., Path], number: signal.Signals, moment: str, status: int
) -> None:
    path = experiment("supervised")
    arguments = ["--config", str(path), "--run.checkpoint.every_n_steps", "null"]

    def send(*args: object, **kwargs: object) -> None:
        signal.raise_signal(number)

    assert forked(arguments, lambda: after(RunRecord, moment, 2, send)) == status, last_words()
    assert "The same command continues" in last_words()
    assert forked(arguments) == 0, last_words()
    assert forked([*arguments, "--run.root", "whole"]) == 0
    assert disagreements(Path("whole/supervised/seed-0"), Path("runs/supervised/seed-0")) == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_refused_by_name(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tiny())
    run("fit", ["--config", path])
    capsys.readouterr()
    assert run("test", ["--config", path, "--ckpt_path", "best"]) == 2
    assert "a run keeps it with --run.checkpoint.best true" in capsys.readouterr().err
    run("fit", ["--config", path, "--run.overwrite", "true", "--run.checkpoint.best", "true"])
    best = Path("runs/tiny/seed-0/checkpoints/best.ckpt")
    best.write_bytes(best.read_bytes()[:-100])
    capsys.readouterr()
    assert run("test", ["--config", path, "--ckpt_path", "best"]) == 2
    assert "best.ckpt is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_what_keeps_a_continued_run_from_being_exact_is_reported(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny({"trainer": {"max_epochs": 2}})

    def stop(self: RunRecord, *args: object) -> None:
        raise KeyError("stop")

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "on_train_end", stop)
        with pytest.raises(KeyError):
            run("fit", ["--config", str(path), "--run.checkpoint.max_time_share", "1"])
    recorded = Path("runs/tiny/seed-0/environment.json")
    recorded.write_text(recorded.read_text().replace('"devices": 1', '"devices": 4'))
    capsys.readouterr()
    assert run("fit", ["--config", str(path)]) == 0
    assert "not to the bit: devices was 4, is 1" in capsys.readouterr().err
