"""What tuning a variant showed: its trials, and the settings that it takes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.metric import TOP1, Metric


class Trial(NamedTuple):
    """Settings that a variant tried."""

    settings: dict[str, Any]  # by key
    score: float | None  # the metric on the validation images, mean over the tuning seeds; None if a run failed

    @property
    def text(self) -> str:
        """The value of a single setting, or the names and values of several."""
        if len(self.settings) == 1:
            return as_yaml(*self.settings.values())
        return ", ".join(f"{key.rpartition('.')[2]} {as_yaml(value)}" for key, value in self.settings.items())


class Choice(NamedTuple):
    """The result of tuning a variant, or within seeds of a variant with one seed."""

    variant: str
    trials: list[Trial]
    metric: Metric = TOP1
    taken: int = 0  # index of the trial whose settings the variant is trained with
    error: float = 0.0  # standard error of the difference of two trials
    seeds: Sequence[int] = ()  # of the tuning runs
    seed: int | None = None  # of the study, whose run has these settings; None: all of them

    @property
    def best(self) -> Trial:
        """The trial with the best score, the first one of equal ones."""
        finished = [trial for trial in self.trials if trial.score is not None]
        return max(finished or self.trials, key=lambda trial: self.metric.sign * (trial.score or 0.0))

    @property
    def chosen(self) -> Trial:
        """The trial whose settings the variant is trained with."""
        return self.trials[self.taken]

    @property
    def ties(self) -> list[Trial]:
        """The trials within a standard error of the best one, itself included."""
        best = self.best.score
        if best is None:
            return [self.best]
        return [t for t in self.trials if t.score is not None and abs(best - t.score) <= self.error]

    @property
    def at_the_edge(self) -> bool:
        """Whether the single best trial has an outermost value, so that a better one may lie beyond it."""
        alone = [trial.score for trial in self.trials].count(self.best.score) == 1
        tried = {key: [trial.settings[key] for trial in self.trials] for key in self.best.settings}
        numbers = {key: values for key, values in tried.items() if all(type(each) in (int, float) for each in values)}
        return alone and any(self.best.settings[key] in (min(own), max(own)) for key, own in numbers.items())
