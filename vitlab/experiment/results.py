"""The metrics of a run: those that it will end with, how it prints them, and why they may be no result."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer
from torchmetrics import MetricCollection

from vitlab import log
from vitlab.data import ImageDataModule
from vitlab.objectives import Distillation, Objective
from vitlab.objectives.labeled import LabeledObjective
from vitlab.runs.knn_monitor import KnnMonitor
from vitlab.runs.measures import Measure

Metrics = dict[str, float]


def unfinished(trainer: Trainer) -> list[str]:
    """Return why a training ended before its time: no step, or max_time; nothing where a callback stopped it."""
    if trainer.global_step == 0:
        return ["no training step was taken, the weights are as they were at the start"]
    done = trainer.current_epoch >= (trainer.max_epochs or 0) >= 0 or trainer.global_step >= trainer.max_steps >= 0
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    left = [seconds for each in timers if (seconds := each.time_remaining()) is not None]  # None: without a limit
    if min(left, default=1.0) <= 0 and not done:
        return [f"max_time ended the training in epoch {trainer.current_epoch} of {trainer.max_epochs}"]
    return []


def images_left_out(trainer: Trainer, data: ImageDataModule, split: Literal["val", "test"]) -> list[str]:
    """Return, in words, that a limit of the Trainer left images out of an evaluation; nothing if it used all."""
    batches = trainer.num_val_batches if split == "val" else trainer.num_test_batches
    seen, classes = data.first_batches(split, int(sum(batches)))
    images = len(data.labels(split))
    if seen == images:
        return []
    done = "validated" if split == "val" else "tested"
    return [f"{done} on {seen} of {images} images, of {classes} of {data.num_classes} classes"]


def show(metrics: Mapping[str, float], partial: Sequence[str], data: ImageDataModule) -> None:
    """Print metrics, after the reasons why they are not a result."""
    if partial:
        log.warning("Not a result: %s.", "; ".join(partial))
    shown = {name: value for name, value in metrics.items() if data.num_classes > 5 or not name.endswith("/top5")}
    log.info("%s", "  ".join(f"{name} {value:.4f}" for name, value in sorted(shown.items())))


def final_metrics(objective: Objective, callbacks: Iterable[Callback]) -> dict[str, bool | None] | None:
    """Return by name, like `test/top1`, whether higher is better; None where that is not known.

    None for the whole: classes of somebody else may log anything, or the metrics are those of the features.
    """
    callbacks = [*callbacks]
    ours = all(type(each).__module__.startswith(("vitlab.", "lightning.")) for each in (objective, *callbacks))
    if not ours or objective.task is None:
        return None
    known: dict[str, bool | None] = dict.fromkeys(objective.epoch_metrics)
    if isinstance(objective, LabeledObjective):
        for split, metrics in objective.metrics.items():
            assert isinstance(metrics, MetricCollection)
            if not split.endswith("_ema") or objective.average is not None:
                inner = {name: getattr(metric, "wrapped_metric", metric) for name, metric in metrics.items()}
                known |= {str(name): metric.higher_is_better for name, metric in inner.items()}
    if isinstance(objective, Distillation):
        known["test/agreement"] = None
    for each in callbacks:
        if isinstance(each, KnnMonitor | Measure):
            known |= dict.fromkeys(each.LOGGED)
    return known
