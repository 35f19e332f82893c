"""Lightning's options that a run rejects before it begins, each with one message."""

import re
from collections.abc import Iterable

from jsonargparse import Namespace
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)

from vitlab import log, models
from vitlab.evaluation.cost import device_for
from vitlab.objectives import Objective
from vitlab.runs.knn_monitor import KnnMonitor

COUNTS = ("accumulate_grad_batches", "check_val_every_n_epoch")  # that Lightning takes and stumbles over later
AVERAGING = (StochasticWeightAveraging, WeightAveraging)


def check_trainer(chosen: Namespace, callbacks: Iterable[Callback], objective: Objective) -> None:
    """Refuse what cannot work in a run, before it begins.

    Raises:
        ValueError: a number out of range, a callback that averages weights or changes the batch, or one whose metric is
            not logged.
    """
    on_cpu = device_for(chosen.accelerator).type == "cpu"
    if not re.fullmatch(r"auto|[1-9]\d*" if on_cpu else r"auto|-1|[1-9]\d*|\[?\d+(, ?\d+)*,?\]?", str(chosen.devices)):
        some = "processes, like 2" if on_cpu else "GPUs, like 2, their indices, like [0, 1]"
        raise ValueError(f"trainer.devices is {chosen.devices}; give a number of {some}, or auto.")
    for name in COUNTS:
        if chosen[name] is not None and chosen[name] < 1:
            raise ValueError(f"trainer.{name} is {chosen[name]}; give 1 or more.")
    monitored = KnnMonitor.LOGGED if any(isinstance(each, KnnMonitor) for each in callbacks) else ()
    for each in callbacks:
        name = type(each).__name__
        if isinstance(each, GradientAccumulationScheduler):
            raise ValueError(f"trainer.callbacks: in place of {name}, set trainer.accumulate_grad_batches.")
        if isinstance(each, LearningRateFinder):
            raise ValueError(f"trainer.callbacks: the schedule overrides {name}; `tune` in a study finds a rate.")
        if isinstance(each, AVERAGING):
            raise ValueError(f"trainer.callbacks: in place of {name}, set model.init_args.ema, which is tested too.")
        own = type(objective).__module__.startswith("vitlab.")  # of others unknown
        known = [*objective.epoch_metrics, *monitored] if own else []
        if isinstance(each, EarlyStopping) and known and each.monitor not in known:
            raise ValueError(f"trainer.callbacks: {name}: there is no {each.monitor}, but {', '.join(known)}.")


def check_precision(precision: str, objective: Objective) -> None:
    """Refuse weights that are not in float32; warn of activations in float16 where they are known to leave its range.

    Raises:
        ValueError: pure float16, in which AdamW's ε of 1e-8 is zero, or another precision of weights.
    """
    if precision == "16-true":
        raise ValueError("trainer.precision is 16-true, in which small updates vanish; set bf16-mixed, or 32-true.")
    if precision.endswith("-true") and precision != "32-true":
        raise ValueError(f"trainer.precision is {precision}, but weights are in float32; set bf16-mixed, or 32-true.")
    if precision == "16-mixed" and isinstance(objective.backbone, models.SwinTransformer | models.SwinTransformerV2):
        log.warning("trainer.precision: activations of large Swins exceed 16-mixed's 65,504; bf16-mixed has room.")
