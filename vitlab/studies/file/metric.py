"""The metric by which a study ranks its variants: that of the task of its objectives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import referee.metric
from referee.claim import Claim
from referee.formats import nearest

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment

TITLES = {"top1": "Accuracy", "balanced_accuracy": "Balanced accuracy", "macro_f1": "Macro F1"}  # fractions
PREDICTED = ("top1", "balanced_accuracy")  # those that predictions give, of runs that did not log them too


@dataclass(frozen=True)
class Metric(referee.metric.Metric):
    """A metric, as the task of an objective logs it. One with a split, like train/rank, is of the end of training."""

    name: str = "top1"  # without its split
    is_fraction: bool = field(init=False)
    one_class: bool = True  # each image has one class, so there are confidences, errors by class and a confusion matrix
    title: str = field(default="", compare=False)  # in figures and tables; with its unit, if it is no accuracy

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_fraction", self.one_class and self.name in TITLES)

    @property
    def is_accuracy(self) -> bool:
        """Whether it is top-1 accuracy, which predictions give image by image; others are known of a whole split."""
        return self.one_class and self.name == "top1"

    @property
    def beside(self) -> list[str]:
        """The fractions that reports show beside another metric of classes, accuracy first."""
        return [name for name in TITLES if name != self.name] if self.one_class and not self.is_accuracy else []

    @property
    def validation(self) -> str:  # a column of metrics.csv
        return self.name if "/" in self.name else f"val/{self.name}"

    @property
    def test(self) -> str:  # a metric of summary.json
        return self.name if "/" in self.name else f"test/{self.name}"

    @property
    def split(self) -> str:
        """What a run is ranked on: test, or validation."""
        return "validation" if self.name.startswith("val/") else "test"

    @property
    def score(self) -> str:
        """Its name with what it is of: test rank, validation top1."""
        return f"{self.split} {self.name.removeprefix('val/')}"

    @property
    def label(self) -> str:  # in a sentence
        return (self.title or TITLES[self.name][0].lower() + TITLES[self.name][1:]) if self.is_fraction else self.name

    @property
    def column(self) -> str:  # above a table's
        return f"{self.title or TITLES[self.name]}, %" if self.is_fraction else self.title or self.name

    def axis(self, split: str = "test") -> str:
        """Return its name at an axis, for the metric on a split; one of the end of the training has its own."""
        if not self.is_fraction and (self.title or "/" in self.name):
            return f"{'ln ' if self.is_log else ''}{self.title or self.name}"
        return super().axis(split)

    def digits(self, scores: Sequence[float], spreads: Sequence[float], items: int) -> int:
        """Return the decimals to show: what this many test images resolve, else four significant digits."""
        if self.is_fraction or self.is_log:
            return super().digits(scores, spreads, items)
        return max(0, 3 - math.floor(math.log10(max(map(abs, scores), default=0.0) or 1.0)))


TOP1 = Metric()
BASELINES = ("chance", "pixels")  # that the accuracies of a claim may have to be above
PROBED = {"knn": "k-NN accuracy", "linear": "accuracy of a linear probe"}


def metric_of(experiment: "Experiment") -> Metric:
    task, probe = experiment.objective.task, experiment.run.probe
    if probe is not None:
        return replace(TOP1, title=PROBED[probe])
    if task is None:
        name = type(experiment.objective).__name__
        raise ValueError(f"{name} learns no labels, so no metric ranks its runs.\nrun.probe: knn tests its features.")
    return Metric(task.monitor.metric.removeprefix("val/"), task.monitor.mode, one_class=task.one_class)


def chosen_metric(experiment: "Experiment", chosen: Mapping[str, Any] | None) -> Metric:
    """Return the metric that a study ranks an experiment's runs by: its own choice, or that of the objective's task."""
    default = metric_of(experiment)
    named = dict(chosen or {})
    if named.get("name", default.name) != default.name:
        named.setdefault("title", "")
    metric = replace(default, is_log=named.pop("scale", None) == "log", **named)
    if metric.is_log and metric.is_fraction:
        raise ValueError("metric: accuracies are compared in points. Remove `scale: log`.")
    known = _final_metrics(experiment) if chosen else None
    if known is not None and metric.test not in known and not metric.name.startswith("top1_"):  # of a stratum
        names = [name.removeprefix("test/") for name in known]
        raise ValueError(f"metric: there is no {metric.name}. {nearest(metric.name, names)}")
    higher = (known or {}).get(metric.test)
    mode = default.mode if metric.name == default.name else {True: "max", False: "min", None: metric.mode}[higher]
    if metric.mode != mode:
        which = "higher" if mode == "max" else "lower"
        raise ValueError(f"metric: {metric.name} is better where it is {which}, so its mode is {mode}.")
    return metric


def refuse_unknown_needs(claim: Claim, experiment: "Experiment", metric: Metric) -> None:
    """Raise ValueError for what a claim needs and a run will not have, as far as is known before it."""
    logged, probed = _final_metrics(experiment), experiment.run.probe is not None and not experiment.frozen
    known = {"score", *(name.rpartition("/")[2] for name in logged or ())}
    lines = {*known, *BASELINES} if metric.is_accuracy else known
    for need in claim.needs:
        if need.line == "untrained" and not (probed and metric.is_accuracy):
            why = "a frozen network has no training" if experiment.frozen else "only probes measure features before it"
            raise ValueError(f"claim: needs: {need}: {why}. Let run.probe rank trained networks.")
        for name, there in zip(need.names, (known, {*lines, "untrained"}), strict=False):
            if logged is not None and name not in there and not name.startswith("top1_"):
                raise ValueError(f"claim: needs: {need}: there is no {name}. There are {', '.join(sorted(there))}.")


def refuse_untuned(experiment: "Experiment", metric: Metric) -> None:
    """Raise ValueError for a metric that no run has on the validation images, by which tuning would choose."""
    learner, known, missing = experiment.objective, _final_metrics(experiment), metric.validation
    if known is not None and metric.validation not in known:
        remedy = f"Rank by one of {', '.join(name for name in known if name.startswith('val/'))}, or remove `tune`."
    elif metric.is_accuracy and (learner.task is None or experiment.run.probe is not None):
        missing = f"{metric.title} of validation images"  # that of a head is another
        ranked = "rank by `metric: {name: val/knn, mode: max}`"
        remedy = f"Add vitlab.runs.knn_monitor.KnnMonitor to trainer.callbacks and {ranked}."
    else:
        return
    raise ValueError(f"tune: {type(learner).__name__} logs no {missing} to choose by.\n{remedy}")


def _final_metrics(experiment: "Experiment") -> dict[str, bool | None] | None:
    from vitlab.experiment.results import final_metrics  # here, because it takes seconds to import

    return final_metrics(experiment.objective, experiment.trainer.callbacks)  # type: ignore[attr-defined]
