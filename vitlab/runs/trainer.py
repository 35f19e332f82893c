"""The Trainer of a run: Lightning's, with the callbacks that record, continue and watch the run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, LearningRateFinder, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from vitlab import log
from vitlab.config import Config
from vitlab.evaluation.cost import choose_tf32, device_for
from vitlab.evaluation.utilization import Utilization
from vitlab.internals import continue_after_whole_epochs, decide_after_validation
from vitlab.objectives import Objective
from vitlab.runs.checkpoints import AtomicCheckpointIO, BestCheckpoint, Checkpointing, RunCheckpoints
from vitlab.runs.directory import METRICS
from vitlab.runs.finite_steps import FiniteSteps
from vitlab.runs.last_epoch import LastEpochValidation
from vitlab.runs.metrics_csv import MetricsFile
from vitlab.runs.progress_bar import RunProgress
from vitlab.runs.record import RunRecord
from vitlab.runs.resume import EpochMeans, RandomState
from vitlab.runs.wandb import UnbreakableWandbLogger, Wandb

Probe = Literal["knn", "linear"]


@dataclass
class Run:
    """The run directory `root/name/seed-<seed>` and what is kept of the run.

    Args:
        name: Name of the run; None: the name of the configuration file.
        root: Folder of all runs.
        overwrite: Train again although the run is finished or has another configuration.
        test: Evaluate the last weights on the test images after training.
        probe: Test features, of an objective without labels too: by k-NN among them, or by a linear classifier
            of them. With `trainer.max_epochs: 0`, weights as they are given. Null: test a classifier's
            answers.
        checkpoint: When the state is written from which the same command continues.
        compile: Compile the blocks of backbones with torch.compile. The first step takes a minute or more, later ones
            less than without. Bit-for-bit equal only to runs that are compiled too.
        not_finite: What to do when a loss or gradient is not finite, after skipping its step.
        wandb: Weights & Biases.
    """

    name: str | None = None
    root: str = "runs"
    overwrite: bool = False
    test: bool = True
    probe: Probe | None = None
    checkpoint: Checkpointing = field(default_factory=Checkpointing)
    compile: bool = False
    not_finite: Literal["stop", "skip"] = "stop"
    wandb: Wandb = field(default_factory=Wandb)


def build_trainer(
    settings: dict[str, Any], run: Run, directory: Path, config: Config, objective: Objective
) -> tuple[Trainer, RunRecord]:
    """Build the Trainer of a run, and the callback that records it.

    Args:
        settings: arguments of the Trainer; callbacks, loggers and plugins are objects already.
        config: the run's complete configuration, which the record writes.

    Raises:
        ValueError: a callback that would train for nothing.
    """
    users = _users_callbacks(settings, objective)
    own_bar = any(isinstance(callback, ProgressBar) for callback in users)
    utilization, record = Utilization(), RunRecord(directory, config)
    callbacks = [
        LastEpochValidation(run.checkpoint.pause_after),  # first, since others ask whether an epoch is validated
        *users,
        record,
        FiniteSteps(run.not_finite),
        RandomState(),
        EpochMeans(),
        utilization,
        RunProgress(utilization, shown=settings["enable_progress_bar"] is not False and not own_bar),
        *(_checkpoints(directory, settings, run, objective) if settings["enable_checkpointing"] is not False else []),
    ]
    loggers = [logger for logger in _as_list(settings["logger"]) if isinstance(logger, Logger)]
    plugins = [*_slurm(), *_as_list(settings["plugins"]), AtomicCheckpointIO(run.checkpoint.on_failure)]
    precision = settings["precision"] or (
        "bf16-mixed" if device_for(settings["accelerator"]).type == "cuda" else "32-true"
    )
    changes = {"callbacks": callbacks, "logger": loggers, "plugins": plugins, "precision": precision}
    trainer = Trainer(**settings | changes | {"enable_progress_bar": own_bar})  # ours takes the place of Lightning's
    continue_after_whole_epochs(trainer)
    if trainer.strategy.root_device.type == "cuda":
        choose_tf32(str(trainer.precision))
    return trainer, record


def _users_callbacks(settings: dict[str, Any], objective: Objective) -> list[Any]:
    """Return the callbacks of a configuration; EarlyStopping decides after the validation that it looks at."""
    users = _as_list(settings["callbacks"])
    if any(isinstance(callback, LearningRateFinder) for callback in users):
        raise ValueError(
            "trainer.callbacks: LearningRateFinder sets a rate that the schedule replaces at the next step.\n"
            "`tune` in a study finds one on validation images; docs/python.md has Lightning's finder in Python."
        )
    validated = [name for name in objective.epoch_metrics if name.startswith("val")]
    for callback in users:
        if isinstance(callback, EarlyStopping) and callback.monitor in validated:
            decide_after_validation(callback)
    return users


def run_loggers(run: Run, directory: Path, config: Config) -> list[Logger]:
    """Return the loggers of a training: metrics.csv, and Weights & Biases where it is enabled."""
    loggers: list[Logger] = [MetricsFile(directory / METRICS)]
    if run.wandb.enabled:
        name = f"{directory.parent.name}-{directory.name}"
        loggers.append(UnbreakableWandbLogger(run.wandb, directory, name, config))
    return loggers


def _checkpoints(directory: Path, settings: dict[str, Any], run: Run, objective: Objective) -> list[Checkpoint]:
    folder = directory / "checkpoints"
    last = RunCheckpoints(folder, run.checkpoint)
    if not run.checkpoint.best:
        return [last]
    if objective.monitor is None:
        log.warning(
            "run.checkpoint.best: no best.ckpt is kept, since %s has no metric for it.", type(objective).__name__
        )
        return [last]
    if settings["limit_val_batches"] == 0:
        log.warning("run.checkpoint.best: no best.ckpt is kept, since trainer.limit_val_batches is 0.")
        return [last]
    best = BestCheckpoint(
        dirpath=folder,
        filename="best",
        monitor=objective.monitor.metric,
        mode=objective.monitor.mode,
        save_on_train_epoch_end=True,  # with every metric of the epoch
        enable_version_counter=False,
    )
    return [best, last]  # in this order: the last state knows which epoch was best


def _slurm() -> list[SLURMEnvironment]:
    """Keep Lightning from requeuing a SLURM job with its own checkpoint, from which no run continues."""
    by_torchrun = TorchElasticEnvironment.detect()
    return [SLURMEnvironment(auto_requeue=False)] if not by_torchrun and SLURMEnvironment.detect() else []


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
