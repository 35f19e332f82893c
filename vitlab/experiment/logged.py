"""The metrics that a run ends with, as far as they are known before it."""

from collections.abc import Iterable

from lightning.pytorch import Callback
from torchmetrics import MetricCollection

from vitlab.objectives import Distillation, Objective
from vitlab.objectives.labeled import LabeledObjective
from vitlab.runs.knn_monitor import KnnMonitor
from vitlab.runs.measures import Measure


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
