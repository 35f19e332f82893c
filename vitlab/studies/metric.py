"""The metric by which a study ranks its variants: that of the task of its objectives."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from referee.formats import SPACE, signed
from referee.statistics.intervals import Interval

from vitlab.studies.format import digits_for

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment


class Metric(NamedTuple):
    """A metric, as the task of an objective logs it."""

    name: str = "top1"  # without its split; one with a split, like train/rank, is a metric of the end of the training
    mode: Literal["min", "max"] = "max"
    one_class: bool = True  # each image has one class, so there are confidences, errors by class and a confusion matrix
    title: str = ""  # in figures and tables, with its unit; empty: the name

    @property
    def is_accuracy(self) -> bool:
        """Whether it is top-1 accuracy, which predictions give image by image; others are known of a whole split."""
        return self.one_class and self.name == "top1"

    @property
    def validation(self) -> str:
        """Its column in metrics.csv."""
        return self.name if "/" in self.name else f"val/{self.name}"

    @property
    def test(self) -> str:
        """Its key among the metrics of summary.json."""
        return self.name if "/" in self.name else f"test/{self.name}"

    @property
    def sign(self) -> int:
        """The factor that makes higher better."""
        return 1 if self.mode == "max" else -1

    @property
    def label(self) -> str:
        """Its name in a sentence."""
        return "accuracy" if self.is_accuracy else self.name

    @property
    def column(self) -> str:
        """Its name above a column."""
        return "Accuracy, %" if self.is_accuracy else self.title or self.name

    def axis(self, split: str) -> str:
        """Return its name at an axis, for the metric on a split; one of the end of the training has its own."""
        if self.is_accuracy:
            return f"{split} accuracy, %"
        return self.title or (self.name if "/" in self.name else f"{split} {self.name}")

    @property
    def scale(self) -> int:
        """The factor between a value and what is shown: per cent of a fraction."""
        return 100 if self.is_accuracy else 1

    def digits(self, scores: Sequence[float], images: int) -> int:
        """Return the decimals to show: what this many test images resolve, else four significant digits."""
        largest = max(map(abs, scores), default=0.0)
        return digits_for(images) if self.is_accuracy else max(0, 3 - math.floor(math.log10(largest or 1.0)))

    def text(self, value: float, digits: int) -> str:
        """Return a value without its unit."""
        return signed(self.scale * value, digits)

    def difference(self, value: float, digits: int) -> str:
        """Return a difference with its unit."""
        return self.text(value, digits) + (f"{SPACE}points" if self.is_accuracy else "")

    def size(self, value: float) -> str:
        """Return the size of a difference that somebody chose, with its unit and no more digits than it has."""
        number = f"{self.scale * value:.6g}"
        return f"{number}{SPACE}point{'' if number == '1' else 's'}" if self.is_accuracy else number

    def bracket(self, interval: Interval, digits: int) -> str:
        """Return an interval like [0.4, 2.2]; empty without an interval."""
        ends = self.text(interval.low, digits), self.text(interval.high, digits)
        return "" if math.isnan(interval.low) else f"[{f',{SPACE}'.join(ends)}]"


TOP1 = Metric()


def metric_of(experiment: "Experiment") -> Metric:
    """Return the metric that ranks an experiment's runs.

    Raises:
        ValueError: the objective has no task.
    """
    task = experiment.objective.task
    if task is None and experiment.run.probe is not None:
        return TOP1
    if task is None:
        name = type(experiment.objective).__name__
        raise ValueError(f"{name} learns no labels, so no metric ranks its runs.\nrun.probe: knn tests its features.")
    return Metric(task.monitor.metric.removeprefix("val/"), task.monitor.mode, task.one_class)


def chosen_metric(experiment: "Experiment", chosen: Mapping[str, Any] | None) -> Metric:
    """Return the metric that a study ranks an experiment's runs by: its own choice, or that of the objective's task.

    Raises:
        ValueError: the choice is no metric of these runs, as far as these are known before a run, or has the wrong way.
    """
    own = metric_of(experiment)
    metric = own._replace(**(chosen or {}))
    from vitlab.experiment.logged import final_metrics  # here, because it takes seconds to import

    known = None
    if chosen and experiment.trainer:
        known = final_metrics(experiment.objective, experiment.trainer.callbacks)  # type: ignore[attr-defined]
    if known is not None and metric.test not in known and not metric.name.startswith("top1_"):  # of a stratum
        names = [name.removeprefix("test/") for name in known]
        near = difflib.get_close_matches(metric.name, names, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ValueError(f"metric: there is no {metric.name}. {hint}There are {', '.join(names)}.")
    higher = (known or {}).get(metric.test)
    mode = own.mode if metric.name == own.name else {True: "max", False: "min", None: metric.mode}[higher]
    if metric.mode != mode:
        which = "higher" if mode == "max" else "lower"
        raise ValueError(f"metric: {metric.name} is better where it is {which}, so its mode is {mode}.")
    return metric
