"""What a study tunes before its comparison, its `tune`: with the same trials for every variant, on validation images.

Several lists are a grid: every combination is tried.
"""

import math
from collections.abc import Sequence
from itertools import count, islice, product
from typing import Annotated, Any, Literal, NamedTuple

from annotated_types import Len
from pydantic import model_validator

from vitlab.studies.file.format import Section, as_yaml
from vitlab.studies.file.metric import TOP1, Metric
from vitlab.studies.file.variants import Seeds

TUNING_SEEDS = 3
TUNE_FROM = 1000  # the first seed of the runs of a grid


class Candidate(NamedTuple):
    """Settings that are tried, in a run for each of some seeds."""

    name: str
    settings: dict[str, Any]  # by key
    seeds: list[int]


class Tuning(Section):
    """`tune` of a study's file: settings with the same candidates for every variant."""

    space: Annotated[dict[str, Annotated[list[Any], Len(2)]], Len(1)]  # by key, the values
    within: Literal["seed", "study"] = "seed"  # each seed of the study tunes for its own run, with that seed
    seeds: Seeds | None = None  # of the tuning runs; None: three from 1000 on that the study's `seeds` lack

    @model_validator(mode="after")
    def _seeds_are_of_the_study(self) -> "Tuning":
        if self.seeds is not None and self.within_seeds:
            raise ValueError(f"seeds: {self.seeds}: `within: seed` tunes with the study's seeds. Remove one.")
        return self

    def beside(self, seeds: list[int]) -> "Tuning":
        """Return the tuning of a study with these seeds, with three others for its own runs unless it names them."""
        if self.within_seeds or self.seeds:
            return self
        unused = (seed for seed in count(TUNE_FROM) if seed not in seeds)
        return self.model_copy(update={"seeds": list(islice(unused, TUNING_SEEDS))})

    @property
    def within_seeds(self) -> bool:
        """Whether each seed of the study makes its own choice."""
        return self.within == "seed"

    @property
    def names(self) -> list[str]:  # the last words of the keys
        return [key.rpartition(".")[2] for key in self.space]

    def candidates(self, seed: int | None) -> list[Candidate]:
        """Return what each variant tries for the run of a seed, or for all runs."""
        seeds = self.seeds or [] if seed is None else [seed]
        tried = [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]
        return [Candidate("-".join(map("{}-{}".format, self.names, each.values())), each, seeds) for each in tried]

    def runs(self, seeds: int) -> int:
        """Return the number of tuning runs of a variant in a study of some seeds."""
        return math.prod(map(len, self.space.values())) * (len(self.seeds) if self.seeds else seeds)


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
