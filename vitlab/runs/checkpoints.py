"""When and how checkpoints are written, what signals do, and which epoch is the last.

`checkpoints/last.ckpt` is the newest state and `previous.ckpt` the one before; `RunDirectory.newest_checkpoint` chooses
among them. A checkpoint is written in the hook from which Lightning can continue, and renamed in the next hook: by then
metrics.csv has every row that belongs to it, so that a run killed in between neither loses a row nor writes one twice.
"""

import math
import shutil
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat, PositiveInt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from vitlab import log
from vitlab.atomic_files import written_whole
from vitlab.internals import is_within_an_epoch, training_position
from vitlab.runs.finite_steps import FiniteSteps
from vitlab.runs.lock import check_held
from vitlab.signals import PAUSED, SIGNALS, UNWRITTEN, is_ignored

# Interval in steps at which several processes agree whether one has to stop or a checkpoint is due.
_STEPS_TO_AGREE = 10


@dataclass
class Checkpointing:
    """When checkpoints are written, from which the same command continues.

    At the ends of epochs, as often as `max_time_share` allows, and always after the last one; in addition as set here.

    Args:
        every_n_steps: Also after this number of optimizer steps; None: not by steps.
        every_n_minutes: Also when the last checkpoint is older than this; None: not by time.
        max_time_share: Largest fraction of the training time that checkpoints at the ends of epochs may take.
        best: Also keep the state of the epoch with the best validation, as best.ckpt.
        keep: Optimizer steps after which the state is also kept as step-<n>.ckpt, from which other runs can branch off.
        pause_after: Epochs after which the run stops, to continue without this setting; None: it does not stop.
        on_failure: If the disk is full or gone: continue without a checkpoint, or stop.
    """

    every_n_steps: PositiveInt | None = None
    every_n_minutes: PositiveFloat | None = 10.0
    max_time_share: ClosedUnitInterval = 0.02
    best: bool = False
    keep: tuple[int, ...] = ()
    pause_after: PositiveInt | None = None
    on_failure: Literal["continue", "stop"] = "continue"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints completely or not at all; a full disk stops the run only with `on_failure: stop`."""

    def __init__(self, on_failure: Literal["continue", "stop"] = "continue") -> None:
        super().__init__()
        self.on_failure = on_failure

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        try:
            with written_whole(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's writer turns one into the other
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            message = f"No checkpoint could be written at step {checkpoint.get('global_step')} as {path} ({cause})."
            tell = log.error if self.on_failure == "stop" else log.warning
            tell("%s The run %ss; earlier checkpoints are intact.", message, self.on_failure)
            if self.on_failure == "stop":
                raise SystemExit(UNWRITTEN) from None


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, which also continues in another folder, where Lightning forgets which state was best."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        folder = Path(str(self.dirpath))
        here = {path: folder / Path(path).name for path in state_dict["best_k_models"]}
        known = {path: str(file) for path, file in here.items() if file.is_file()}
        paths = {key: known.get(state_dict[key], "") for key in ("best_model_path", "kth_best_model_path")}
        kept = {known[path]: score for path, score in state_dict["best_k_models"].items() if path in known}
        super().load_state_dict({**state_dict, "dirpath": self.dirpath, "best_k_models": kept, **paths})


class RunCheckpoints(Checkpoint):
    """Writes `last.ckpt`, keeps the one before, and stops the run after a signal once its state is written."""

    def __init__(self, directory: Path, settings: Checkpointing) -> None:
        self.directory, self._next = directory, directory / "next.ckpt"
        self.settings, self.signals = settings, Signals()
        self.seconds = self._cost = 0.0
        self._step = 0
        self._at = time.perf_counter()
        self._tried = self._unpublished = self._owed = False
        self._written_at, self._pausing = 0, False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step
        self._at = time.perf_counter()
        if trainer.is_global_zero:
            for unfinished in (self._next, *self.directory.glob("*.new")):  # left by a killed run
                unfinished.unlink(missing_ok=True)
        self.signals.listen()  # after Lightning, whose own handler would stop the run without its state

    # ---- writing

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:
            return  # between accumulated batches, whose gradients are not in a checkpoint
        self._step = trainer.global_step
        if trainer.is_last_batch or batch_idx + 1 >= trainer.num_training_batches:  # the end of the epoch follows
            return
        steps, minutes = self.settings.every_n_steps, self.settings.every_n_minutes
        by_time = minutes is not None and time.perf_counter() - self._at >= 60 * minutes
        due = by_time or self._owed or self.signals.received is not None
        if trainer.world_size > 1:
            due = self._step % _STEPS_TO_AGREE == 0 and _any_process(trainer, due)
        if due or self._step in self.settings.keep or (steps is not None and self._step % steps == 0):
            self._write(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Discard a checkpoint from which this validation would be missing, and write one after the next step."""
        self._owed = self._unpublished
        self._tried = self._unpublished = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        final = is_last_epoch(trainer)
        self._pausing = trainer.current_epoch + 1 == self.settings.pause_after and not final
        final = final or self._pausing or trainer.global_step in self.settings.keep
        affordable = (time.perf_counter() - self._at) * self.settings.max_time_share >= self._cost
        if final or _any_process(trainer, affordable or self.signals.received is not None):
            self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        begin = time.perf_counter()
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, FiniteSteps):  # a state after a step that stops the run would be continued
                callback.settle(trainer, trainer.lightning_module)
        if trainer.is_global_zero:
            self._next.unlink(missing_ok=True)
        trainer.save_checkpoint(self._next)
        self._written_at = trainer.global_step
        self._unpublished = _any_process(trainer, trainer.is_global_zero and self._next.is_file())
        self._tried, self._owed = True, False
        self._at = time.perf_counter()
        self._cost = self._at - begin
        self.seconds += self._cost

    # ---- publishing

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        unwritten = _any_process(trainer, trainer.is_global_zero and self._tried and not self._unpublished)
        self._publish(trainer)
        if unwritten and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            log.error("%s: the last weights are not written. Make room; the same command continues.", self.directory)
            raise SystemExit(UNWRITTEN)

    def _publish(self, trainer: Trainer, *args: Any) -> None:
        """Make the state that was written the last one, and stop the run if a signal asked for it."""
        if self._unpublished and trainer.is_global_zero:
            check_held(self.directory.parent)
            if self._written_at in self.settings.keep:
                self._keep(self._next, kept_state(self.directory, self._written_at))
                if (best := self.directory / "best.ckpt").is_file():
                    self._keep(best, kept_state(self.directory, self._written_at, "-best"))
            last = self.directory / "last.ckpt"
            if last.is_file():
                last.replace(self.directory / "previous.ckpt")
            self._next.replace(last)
        if self._tried:
            self._tried = self._unpublished = False
            self._stop_if_asked(trainer)

    on_train_batch_start = on_train_epoch_start = _publish  # type: ignore[assignment]  # the next hooks

    def _keep(self, state: Path, target: Path) -> None:
        """Keep a copy of a state under another name."""
        try:
            with written_whole(target) as file, state.open("rb") as content:
                shutil.copyfileobj(content, file)
        except OSError as error:
            log.warning("%s could not be kept (%s).", target, error)
            if self.settings.on_failure == "stop":
                raise SystemExit(UNWRITTEN) from None

    # ---- signals

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()

    def on_test_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.world_size == 1:  # several processes test to the end: none may wait for one that has stopped
            self._stop_if_asked(trainer)

    def _stop_if_asked(self, trainer: Trainer) -> None:
        if self._pausing:
            log.info("Paused after epoch %d; continues without run.checkpoint.pause_after.", self.settings.pause_after)
            raise SystemExit(PAUSED)
        if not _any_process(trainer, self.signals.received is not None):
            return
        received = self.signals.received or signal.SIGTERM
        log.info("%s: stopped at step %d. The same command continues.", received.name, trainer.global_step)
        raise SystemExit(SIGNALS[received])

    def teardown(self, *args: Any, **kwargs: Any) -> None:
        self.signals.restore()

    on_exception = teardown


class Signals:
    """Remembers a request to stop until the step is complete. A second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Handle the signals, if this is the main thread; Python allows it in no other."""
        with suppress(ValueError):
            for number in SIGNALS:
                if not is_ignored(number):
                    before = signal.signal(number, self._remember)
                    self._before.setdefault(number, before)

    def restore(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        log.info("%s: the run stops after this step.", self.received.name)


def _any_process(trainer: Trainer, decision: bool) -> bool:
    """Return whether the decision of any process is true; all processes must call this."""
    return decision if trainer.world_size == 1 else bool(trainer.strategy.reduce_boolean_decision(decision, all=False))


def kept_state(checkpoints: Path, step: int, which: str = "") -> Path:
    """Return the file of a state that `Checkpointing.keep` keeps; `-best`: of what was the best one then."""
    return checkpoints / f"step-{step}{which}.ckpt"


def is_last_epoch(trainer: Trainer) -> bool:
    """Return, at the end of an epoch, whether it is the last."""
    ended = trainer.max_steps >= 0 and trainer.global_step >= trainer.max_steps
    least_epochs, least_steps = trainer.min_epochs or 0, trainer.min_steps or 0
    may_stop = trainer.current_epoch + 1 >= least_epochs and trainer.global_step >= least_steps
    return ended or (trainer.should_stop and may_stop) or trainer.current_epoch + 1 == trainer.max_epochs


class LastEpochValidation(Callback):
    """Validates the last epoch, or that before a pause, whatever `check_val_every_n_epoch` is: each run has a score."""

    def __init__(self, pause_after: int | None = None) -> None:
        self.pause_after = pause_after
        self._set: tuple[int, int | float | None] | None = None  # the settings, while they are changed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare an epoch that the run continues within: Lightning does not announce its start again."""
        if is_within_an_epoch(trainer):
            _, batches = training_position(trainer)
            self._prepare(trainer, trainer.global_step - batches // trainer.accumulate_grad_batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._prepare(trainer, trainer.global_step)

    def _prepare(self, trainer: Trainer, done: int) -> None:
        """Set when an epoch is validated that starts after some steps."""
        if trainer.check_val_every_n_epoch is None:  # validation counts batches
            return
        batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
        in_epoch = math.ceil(batches / accumulate)
        steps = trainer.max_steps - done if trainer.max_steps >= 0 else math.inf
        if steps <= in_epoch or trainer.current_epoch + 1 in (trainer.max_epochs, self.pause_after):
            self._set = self._set or (trainer.check_val_every_n_epoch, trainer.val_check_batch)
            trainer.check_val_every_n_epoch = 1
        if 0 < steps * accumulate < (trainer.val_check_batch or 0):  # Lightning validates no epoch that is cut short
            trainer.val_check_batch = steps * accumulate

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the settings back to a Trainer that trains again."""
        if self._set is not None:
            (trainer.check_val_every_n_epoch, trainer.val_check_batch), self._set = self._set, None
