"""The progress of a run, and the throughput that it shows and logs."""

import math
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vitlab import log
from vitlab.data.terminal import show
from vitlab.evaluation.cost.utilization import Utilization
from vitlab.objectives import Objective
from vitlab.runs.checkpoints import RunCheckpoints
from vitlab.runs.last_epoch import is_last_epoch


class Pace:
    """Batches, images and seconds of an epoch's training, and the seconds spent waiting for data."""

    def __init__(self) -> None:
        self.batches = self.images = 0
        self.waited = self.aside = 0.0
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Training time so far, without validation and checkpoints."""
        return max(time.perf_counter() - self.began - self.aside, 1e-9)


class RunProgress(Callback):
    """One line for the whole run: epoch, images/s, the fraction of time spent waiting for data and the remaining time.

    On a terminal it is written anew once a second, with the loss, which is read from the device as often. Elsewhere it
    is printed at intervals. Each epoch logs images/s, the fraction of time spent waiting for data, TFLOP/s per device
    and, on a GPU, the model FLOPs utilization, all without validation and checkpoints.

    Args:
        shown: False: log only, where `trainer.enable_progress_bar` is off or the user has a progress bar.
    """

    def __init__(self, utilization: Utilization, shown: bool = True) -> None:
        super().__init__()
        self.utilization = utilization
        self.enabled = shown
        self._epoch = Pace()
        self._last, self._paused_before = time.perf_counter(), 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused_before = self._paused(trainer)
        self._epoch = Pace()
        self._began = self._last = self._refreshed = self._printed = time.perf_counter()
        self._steps = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self._epochs = math.ceil(self._steps / max(int(trainer.num_training_batches), 1))
        self._first = trainer.fit_loop.total_batch_idx + 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        paused = self._paused(trainer) - self._paused_before
        self._paused_before += paused
        self._epoch.waited += time.perf_counter() - self._last - paused
        self._epoch.aside += paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._last = time.perf_counter()
        self._epoch.batches += 1
        self._epoch.images += len(batch[1]) * trainer.world_size
        if now - self._refreshed >= 1.0 or trainer.is_last_batch:
            self._refreshed = now
            if not (self.enabled and trainer.is_global_zero):
                return
            if sys.stderr.isatty():
                show(self._line(trainer, now, f", loss {float(outputs['loss']):.3f}"))
            elif now - self._printed >= 60:  # an epoch of more than a minute
                self._print(trainer, now, trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time since the last batch, which validation or a checkpoint took."""
        now = time.perf_counter()
        self._epoch.aside += now - self._last
        self._last, self._paused_before = now, self._paused(trainer)

    @staticmethod
    def _paused(trainer: Trainer) -> float:
        """Return the seconds spent on checkpoints so far."""
        return sum(each.seconds for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoints))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)
        now = self._last
        pace = self._epoch
        rates = {"images_per_second": pace.images / pace.seconds, "data_wait": pace.waited / pace.seconds}
        rates |= self.utilization.rates(pace.batches / pace.seconds)
        pl_module.log_dict(rates, rank_zero_only=True)
        metrics = trainer.callback_metrics  # in every process: Lightning takes the mean over all of them here
        due = not sys.stderr.isatty() and now - self._printed >= 10
        if (is_last_epoch(trainer) or due) and self.enabled and trainer.is_global_zero:
            show("")
            self._print(trainer, now, metrics)
        self._epoch = Pace()

    def _print(self, trainer: Trainer, now: float, metrics: Mapping[str, Tensor]) -> None:
        self._printed = now
        objective = trainer.lightning_module
        assert isinstance(objective, Objective)
        name = objective.monitor.metric if objective.monitor else "train/loss"
        value = metrics.get(name)
        log.info(self._line(trainer, now, f", {name} {float(value):.4f}" if value is not None else ""))

    def _line(self, trainer: Trainer, now: float, reading: str) -> str:
        done = trainer.fit_loop.total_batch_idx + 1
        left = timedelta(seconds=round((self._steps - done) * (now - self._began) / max(done - self._first, 1)))
        pace = self._epoch
        rates = f"{pace.images / pace.seconds:,.0f} images/s, {pace.waited / pace.seconds:.0%} waiting for data"
        return f"epoch {trainer.current_epoch + 1}/{self._epochs}: {rates}{reading}, {left} left"

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.enabled and trainer.is_global_zero:
            show("")
