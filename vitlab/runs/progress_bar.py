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
from vitlab.evaluation.utilization import Utilization
from vitlab.objectives import Objective
from vitlab.runs.checkpoints import RunCheckpoints
from vitlab.runs.last_epoch import is_last_epoch


class RunProgress(Callback):
    """One line for the whole run: epoch, images/s, the fraction of time spent waiting for data and the remaining time.

    On a terminal it is written anew once a second, with the loss, which is read from the device as often. Elsewhere it
    is printed at intervals. Each epoch logs images/s, the fraction of time spent waiting for data, TFLOP/s per device
    and, on a GPU, the model FLOPs utilization, all without validation and checkpoints.

    Args:
        shown: False: log only, where `trainer.enable_progress_bar` is off or the user has a progress bar.
    """

    def __init__(self, utilization: Utilization, shown: bool = True) -> None:
        self.utilization, self.enabled = utilization, shown
        self._aside = self._last = 0.0  # for a validation before training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps = int(trainer.estimated_stepping_batches) * trainer.accumulate_grad_batches
        self._epochs = math.ceil(self._steps / max(int(trainer.num_training_batches), 1))
        self._first = trainer.fit_loop.total_batch_idx + 1
        self._began = self._refreshed = self._printed = time.perf_counter()
        self._start_epoch(trainer)

    def _start_epoch(self, trainer: Trainer) -> None:
        self._batches = self._images = 0
        self._waited = self._aside = 0.0  # seconds spent waiting for data, and on validation and checkpoints
        self._epoch_began = self._last = time.perf_counter()
        self._checkpointed = _seconds_of_checkpoints(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        before, self._checkpointed = self._checkpointed, _seconds_of_checkpoints(trainer)
        self._aside += self._checkpointed - before
        self._waited += time.perf_counter() - self._last - (self._checkpointed - before)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self._last = time.perf_counter()
        self._batches += 1
        self._images += len(batch[1]) * trainer.world_size
        if (now - self._refreshed >= 1.0 or trainer.is_last_batch) and self.enabled and trainer.is_global_zero:
            self._refreshed = now
            if sys.stderr.isatty():
                show(self._line(trainer, f", loss {float(outputs['loss']):.3f}"))
            elif now - self._printed >= 60:  # an epoch of more than a minute
                self._print(trainer, trainer.callback_metrics)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time since the last batch, which validation or a checkpoint took."""
        now = time.perf_counter()
        self._aside += now - self._last
        self._last, self._checkpointed = now, _seconds_of_checkpoints(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_validation_end(trainer, pl_module)
        rates = {"images_per_second": self._images / self._seconds, "data_wait": self._waited / self._seconds}
        rates |= self.utilization.rates(self._batches / self._seconds)
        pl_module.log_dict(rates, rank_zero_only=True)
        metrics = trainer.callback_metrics  # in every process: Lightning takes the mean over all of them here
        due = is_last_epoch(trainer) or (not sys.stderr.isatty() and self._last - self._printed >= 10)
        if due and self.enabled and trainer.is_global_zero:
            show("")
            self._print(trainer, metrics)
        self._start_epoch(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.enabled and trainer.is_global_zero:
            show("")

    @property
    def _seconds(self) -> float:
        """Training time of the epoch so far, without validation and checkpoints."""
        return max(time.perf_counter() - self._epoch_began - self._aside, 1e-9)

    def _print(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self._printed = self._last
        objective = trainer.lightning_module
        assert isinstance(objective, Objective)
        name = objective.monitor.metric if objective.monitor else "train/loss"
        value = metrics.get(name)
        log.info(self._line(trainer, "" if value is None else f", {name} {float(value):.4f}"))

    def _line(self, trainer: Trainer, reading: str) -> str:
        done = trainer.fit_loop.total_batch_idx + 1
        left = (self._steps - done) * (self._last - self._began) / max(done - self._first, 1)
        rates = f"{self._images / self._seconds:,.0f} images/s, {self._waited / self._seconds:.0%} waiting for data"
        epoch = f"epoch {trainer.current_epoch + 1}/{self._epochs}"
        return f"{epoch}: {rates}{reading}, {timedelta(seconds=round(left))} left"


def _seconds_of_checkpoints(trainer: Trainer) -> float:
    return sum(each.seconds for each in trainer.checkpoint_callbacks if isinstance(each, RunCheckpoints))
