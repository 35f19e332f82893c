"""What a study tunes before its comparison, its `tune`: with the same trials for every variant, on validation images.

    tune:
      space:
        model.init_args.optimizer.init_args.lr: [5.0e-4, 1.0e-3, 2.0e-3]
      within: study            # seed: each seed of the study tunes for its own run, with that seed; the default
      seeds: [91, 92, 93]      # of the tuning runs; null: three from 1000 on that the study's `seeds` lack

Several lists are a grid: every combination is tried.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Tuning:
    """Settings tuned on validation images, with the same candidates for every variant."""

    space: dict[str, list[Any]]  # by key, the values
    seeds: list[int]  # of the tuning runs
    chosen_for: Sequence[int | None] = (None,)  # the study's seeds that each choose; None: one choice for all of them

    @property
    def within_seeds(self) -> bool:
        """Whether each seed of the study makes its own choice."""
        return None not in self.chosen_for

    @property
    def names(self) -> list[str]:  # the last words of the keys
        return [key.rpartition(".")[2] for key in self.space]

    def candidates(self, seed: int | None) -> list[Candidate]:
        """Return what each variant tries for the run of a seed, or for all runs."""
        seeds = self.seeds if seed is None else [seed]
        names = ["-".join(map("{}-{}".format, self.names, values)) for values in product(*self.space.values())]
        grid = [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]
        return [Candidate(name, settings, seeds) for name, settings in zip(names, grid, strict=True)]

    def runs(self, seeds: int) -> int:
        """Return the number of tuning runs of a variant in a study of some seeds."""
        return math.prod(map(len, self.space.values())) * (seeds if self.within_seeds else len(self.seeds))


class Tune(Section):
    """`tune` of a study's file."""

    space: Annotated[dict[str, Annotated[list[Any], Len(2)]], Len(1)]
    within: Literal["seed", "study"] = "seed"
    seeds: Seeds | None = None

    @model_validator(mode="after")
    def _seeds_are_of_the_study(self) -> "Tune":
        if self.seeds is not None and self.within == "seed":
            raise ValueError(
                f"seeds: {self.seeds}, but `within: seed` tunes with the study's seeds. Remove one of the two."
            )
        return self

    def of(self, seeds: list[int]) -> Tuning:
        """Return what a study with these seeds tunes."""
        if self.within == "seed":
            return Tuning(self.space, seeds, seeds)
        unused = islice((seed for seed in count(TUNE_FROM) if seed not in seeds), TUNING_SEEDS)
        return Tuning(self.space, self.seeds or list(unused))


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
