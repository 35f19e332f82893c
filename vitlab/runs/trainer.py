"""The Trainer of a run: Lightning's, with the callbacks that record, continue and watch the run."""

import math
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from torch import Tensor

from vitlab import log
from vitlab.config import Config
from vitlab.evaluation.cost import choose_tf32, device_for
from vitlab.evaluation.utilization import Utilization
from vitlab.internals import continue_after_whole_epochs, decide_after_validation
from vitlab.objectives import Monitor, Objective
from vitlab.runs.checkpoints import (
    AtomicCheckpointIO,
    BestCheckpoint,
    Checkpointing,
    LastEpochValidation,
    RunCheckpoints,
    is_last_epoch,
)
from vitlab.runs.directory import METRICS
from vitlab.runs.exactness import EpochMeans, RandomState
from vitlab.runs.finite_steps import FiniteSteps
from vitlab.runs.loggers import MetricsFile, UnbreakableWandbLogger, Wandb
from vitlab.runs.record import RunRecord

Probe = Literal["knn", "linear"]


@dataclass
class Run:
    """The run directory `root/name/seed-<seed>` and what is kept of the run.

    Args:
        name: Name of the run; None: the name of the configuration file.
        root: Folder of all runs.
        overwrite: Train again although the run is finished or has another configuration.
        test: Evaluate the last weights on the test images after training.
        probe: Test features, of an objective without labels too: by k-NN among them, or by a linear classifier of
            them. With `trainer.max_epochs: 0`, weights as they are given. Null: test a classifier's answers.
        checkpoint: When the state is written from which the same command continues.
        compile: Compile the blocks of backbones with torch.compile, or, for small networks, the `whole` loss. The first
            step takes a minute or more. Bit-for-bit equal only to runs that are compiled in the same way.
        not_finite: What to do when a loss or gradient is not finite, after skipping its step.
        wandb: Weights & Biases.
    """

    name: str | None = None
    root: str = "runs"
    overwrite: bool = False
    test: bool = True
    probe: Probe | None = None
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    compile: bool | Literal["whole"] = False
    not_finite: Literal["stop", "skip"] = "stop"
    wandb: Wandb = field(default_factory=Wandb)


def build_trainer(
    settings: dict[str, Any], run: Run, directory: Path, config: Config, objective: Objective
) -> tuple[Trainer, RunRecord]:
    """Build the Trainer of a run from its arguments, which are objects already, and the callback that records it."""
    users = as_list(settings["callbacks"])
    validated = [name for name in objective.epoch_metrics if name.startswith("val")]
    for callback in users:
        if isinstance(callback, EarlyStopping) and callback.monitor in validated:
            decide_after_validation(callback)
    own_bar = any(isinstance(callback, ProgressBar) for callback in users)
    utilization, record = Utilization(), RunRecord(directory, config)
    callbacks: list[Callback] = [
        LastEpochValidation(run.checkpoint.pause_after),  # first, since others ask whether an epoch is validated
        *users,
        record,
        FiniteSteps(run.not_finite),
        RandomState(),
        EpochMeans(),
        utilization,
        RunProgress(utilization, shown=settings["enable_progress_bar"] is not False and not own_bar),
    ]
    if settings["enable_checkpointing"] is not False:
        folder, best = directory / "checkpoints", objective.monitor if run.checkpoint.best else None
        if best is not None and settings["limit_val_batches"] != 0:  # first: the last state knows the best epoch
            rank: dict[str, Any] = {"monitor": best.metric, "mode": best.mode, "save_on_train_epoch_end": True}
            callbacks.append(BestCheckpoint(folder, "best", **rank, enable_version_counter=False))
        elif run.checkpoint.best:
            log.warning("run.checkpoint.best: no best.ckpt is kept, since there is no validation metric.")
        callbacks.append(RunCheckpoints(folder, run.checkpoint))
    loggers = [logger for logger in as_list(settings["logger"]) if isinstance(logger, Logger)]
    plugins = [*as_list(settings["plugins"]), AtomicCheckpointIO(run.checkpoint.on_failure)]
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        plugins.insert(0, SLURMEnvironment(auto_requeue=False))  # else Lightning requeues a job with its own checkpoint
    precision = settings["precision"] or (
        "bf16-mixed" if device_for(settings["accelerator"]).type == "cuda" else "32-true"
    )
    changes = {"callbacks": callbacks, "logger": loggers, "plugins": plugins, "precision": precision}
    trainer = Trainer(**settings | changes | {"enable_progress_bar": own_bar})  # ours takes the place of Lightning's
    continue_after_whole_epochs(trainer)
    if trainer.strategy.root_device.type == "cuda":
        choose_tf32(str(trainer.precision))
    return trainer, record


def run_loggers(run: Run, directory: Path, config: Config) -> list[Logger]:
    """Return the loggers of a training: metrics.csv, and Weights & Biases where it is enabled."""
    loggers: list[Logger] = [MetricsFile(directory / METRICS)]
    if run.wandb.enabled:
        name = f"{directory.parent.name}-{directory.name}"
        loggers.append(UnbreakableWandbLogger(run.wandb, directory, name, config))
    return loggers


def as_list(value: Any) -> list[Any]:
    """Return what an option of the Trainer is given as, one object, some or none, as a list."""
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]


def show(line: str) -> None:
    """Replace the line that was shown last on a terminal; an empty one erases it."""
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns - 1  # of a line that wraps only the end would be replaced
        print(f"\r\x1b[K{line[:columns]}", end="", file=sys.stderr, flush=True)


class RunProgress(Callback):
    """One line for the whole run: epoch, images/s, the fraction of time spent waiting for data and the remaining time.

    On a terminal it is written anew once a second, with the loss; elsewhere at intervals, and nowhere if not `shown`.
    Each epoch logs its throughput: images/s, the fraction of time waiting for data, TFLOP/s per device and, on a GPU,
    model FLOPs utilization, all without validation and checkpoints.
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
        monitor = trainer.lightning_module.monitor
        name = monitor.metric if isinstance(monitor, Monitor) else "train/loss"
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
