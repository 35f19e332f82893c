"""What a study tunes before its comparison, its `tune`: with the same trials for every variant, on validation images.

    tune:
      space:
        model.init_args.optimizer.init_args.lr: [5.0e-4, 1.0e-3, 2.0e-3]
      within: study            # seed: each seed of the study tunes for its own run, with that seed; the default
      seeds: [91, 92, 93]      # of the tuning runs; null: three from 1000 on that the study's `seeds` lack

Lists alone are a grid: every combination is tried. With `trials`, settings are drawn at random, once for all seeds;
trial i has its own seed, from 2000 on.

      space:
        model.init_args.optimizer.init_args.lr: {from: 1.0e-4, to: 1.0e-2}     # log-uniform; whole numbers stay whole
        model.init_args.optimizer.init_args.weight_decay: {from: 0.0, to: 0.3, log: false}
        model.init_args.label_smoothing: [0.0, 0.1]                            # one of a list
      trials: 24
      within: study
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice, product
from typing import Any, NamedTuple

import numpy as np

from vitlab.studies.file.budget import refuse_unknown
from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.vary import parse_seeds

KEYS = ("space", "trials", "within", "seeds")
WITHIN = ("seed", "study")
TUNING_SEEDS = 3
TUNE_FROM = 1000  # the first seed of the runs of a grid
DRAW_FROM = 2000  # the first seed of a random trial
LEAST_TRIALS = 2


class Candidate(NamedTuple):
    """Settings that are tried, in a run for each of some seeds."""

    name: str
    settings: dict[str, Any]  # by key
    seeds: list[int]


@dataclass(frozen=True)
class Tuning:
    """Settings tuned on validation images, with the same candidates for every variant."""

    space: dict[str, Any]  # by key: a list of values, or a mapping with from, to and log
    seeds: list[int]  # of the tuning runs; of random trials by trial
    chosen_for: Sequence[int | None] = (None,)  # the study's seeds that each choose; None: one choice for all of them
    trials: int | None = None  # drawn; None: every combination of the lists

    @property
    def within_seeds(self) -> bool:
        """Whether each seed of the study makes its own choice."""
        return None not in self.chosen_for

    @property
    def names(self) -> list[str]:
        """The last words of the keys."""
        return [key.rpartition(".")[2] for key in self.space]

    def candidates(self, seed: int | None) -> list[Candidate]:
        """Return what each variant tries for the run of a seed, or for all runs."""
        if self.trials is not None:
            drawn = draw_settings(self.space, self.trials)
            return [Candidate(f"trial-{i + 1:02d}", settings, [self.seeds[i]]) for i, settings in enumerate(drawn)]
        seeds = self.seeds if seed is None else [seed]
        names = ["-".join(map("{}-{}".format, self.names, values)) for values in product(*self.space.values())]
        grid = [dict(zip(self.space, values, strict=True)) for values in product(*self.space.values())]
        return [Candidate(name, settings, seeds) for name, settings in zip(names, grid, strict=True)]

    def runs(self, seeds: int) -> int:
        """Return the number of tuning runs of a variant in a study of some seeds."""
        once = self.trials or math.prod(map(len, self.space.values())) * (1 if self.within_seeds else len(self.seeds))
        return once * seeds if self.within_seeds else once


def draw_settings(space: dict[str, Any], trials: int, seed: int = 0) -> list[dict[str, Any]]:
    """Draw settings at random, each trial's independently of the others'."""
    rng = np.random.RandomState(seed)  # as studies drew since the first one, whose trials are found again
    return [{key: _draw_one(values, rng) for key, values in space.items()} for _ in range(trials)]


def _draw_one(values: Any, rng: np.random.RandomState) -> Any:
    if isinstance(values, list):
        return values[int(rng.uniform(size=len(values)).argmax())]
    low, high, log = values["from"], values["to"], values["log"]
    whole = type(low) is int and type(high) is int
    first, last = (low - 0.5, high + 0.5) if whole else (low, high)
    drawn = math.exp(rng.uniform(math.log(first), math.log(last))) if log else rng.uniform(first, last)
    return int(np.clip(round(drawn), low, high)) if whole else min(drawn, math.nextafter(high, low))


def parse_tuning(value: Any, seeds: list[int]) -> Tuning | None:
    """Parse a study's `tune`; `seeds` are those of the comparison.

    Raises:
        ValueError: the message does not name the file.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("space"), dict) or not value["space"]:
        example = "{space: {model.init_args.optimizer.init_args.lr: [5.0e-4, 1.0e-3]}}"
        raise ValueError(f"tune: {value!r}. Expected a mapping with a `space` of keys, like {example}.")
    refuse_unknown(value, KEYS, "key of `tune`")
    space = {str(key): _parse_values(str(key), each) for key, each in value["space"].items()}
    within, fixed = value.get("within", "seed"), value.get("seeds")
    trials = value.get("trials")
    if within not in WITHIN:
        raise ValueError(f"tune: within: {within!r}. Expected `seed` or `study`.")
    if trials is not None and (type(trials) is not int or trials < LEAST_TRIALS):
        raise ValueError(f"tune: trials: {trials!r}. Expected a whole number from {LEAST_TRIALS}, or a grid of lists.")
    if trials is None and (ranges := [key for key, each in space.items() if isinstance(each, dict)]):
        raise ValueError(
            f"tune: space: {ranges[0]}: {as_yaml(space[ranges[0]])} is a range. Give a number of `trials`."
        )
    if trials and within == "seed":
        raise ValueError("tune: trials: settings are drawn once for all seeds. Write `within: study`.")
    if fixed is not None and (within == "seed" or trials):
        why = "random trials have their own seeds" if trials else "`within: seed` tunes with the study's seeds"
        raise ValueError(f"tune: seeds: {fixed}, but {why}. Remove one of the two.")
    if trials:
        return Tuning(space, _unused(seeds, DRAW_FROM, trials), trials=trials)
    if within == "seed":
        return Tuning(space, seeds, seeds)
    try:
        return Tuning(space, _unused(seeds, TUNE_FROM, TUNING_SEEDS) if fixed is None else parse_seeds(fixed))
    except ValueError as error:
        raise ValueError(f"tune: {error}") from None


def _unused(seeds: Sequence[int], first: int, number: int) -> list[int]:
    return list(islice((seed for seed in count(first) if seed not in seeds), number))


def _parse_values(key: str, value: Any) -> Any:
    if isinstance(value, list) and len(value) > 1:
        return value
    if isinstance(value, dict):
        refuse_unknown(value, ("from", "to", "log"), f"key of `tune: space: {key}`")
        low, high, log = value.get("from", "absent"), value.get("to", "absent"), value.get("log", True)
        numbers = type(low) in (int, float) and type(high) in (int, float)
        if numbers and low < high and type(log) is bool and (low > 0 or not log):
            return {"from": low, "to": high, "log": log}
    raise ValueError(
        f"tune: space: {key}: {as_yaml(value)}. Expected a list of values, or {{from: 1.0e-4, to: 1.0e-2}} with "
        "numbers above 0 (or log: false)."
    )
