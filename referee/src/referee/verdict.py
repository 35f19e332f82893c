"""Which variants differ beyond chance: the table of outcomes → a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from referee.checks import Check, checks
from referee.metric import Metric
from referee.outcomes import Outcomes, Run, from_frame
from referee.statistics.comparison import LEVEL, TESTS, Difference, differences, step_down
from referee.statistics.intervals import Interval, t_interval
from referee.statistics.items import over_fractions, over_items
from referee.statistics.power import Pilot, growing, measured
from referee.statistics.sequential import Watch, level, watch

BETTER, OPEN, EQUAL, VOID = "better", "no winner yet", "equal", "not comparable"


@dataclass(frozen=True, eq=False)
class Variant:
    """The runs of a variant that have a result."""

    name: str
    index: int  # in the table; determines color and marker
    runs: list[Run]  # at least one
    metric: Metric

    @cached_property
    def outcomes(self) -> np.ndarray:
        """By seed, higher being better: (S, N) bool where an item is right or wrong, else scores, (S, 1)."""
        rows = [self.by_item(run) for run in self.runs]
        return np.stack(rows) if all(row.dtype == bool for row in rows) else np.array([[row.mean()] for row in rows])

    def by_item(self, run: Run) -> np.ndarray:
        """Return the outcomes of a run, (N,), higher being better."""
        if self.metric.mode == "max":
            return run.outcomes
        return ~run.outcomes if run.outcomes.dtype == bool else -run.outcomes

    @cached_property
    def scores(self) -> list[float]:
        """By seed, in the metric's own direction."""
        return [float(run.outcomes.mean()) for run in self.runs]

    @cached_property
    def score(self) -> Interval:
        """Mean and 95 % interval over seeds."""
        items = self.outcomes.shape[1]
        interval = t_interval(self.scores, step=1 / items if items > 1 else 0.0)
        return interval.within(0, 1) if self.metric.is_fraction else interval


class Pair(NamedTuple):
    """A comparison of two variants, the one with the better mean first."""

    better: Variant
    worse: Variant
    difference: Difference | None  # None where one of them has one seed and the other several
    p: float = math.nan  # adjusted for all pairs; of the look that settled the pair
    settled: bool = False  # the first is better beyond chance
    equal: bool = False  # not settled, and equal to within the margin

    @property
    def verdict(self) -> str:
        return BETTER if self.settled else EQUAL if self.equal else OPEN

    @property
    def lead(self) -> float:
        """The difference of the means, 0 or more unless an earlier look settled the pair."""
        return self.better.metric.sign * (self.better.score.mean - self.worse.score.mean)

    @property
    def interval(self) -> Interval:
        """The lead with the simultaneous interval of all pairs, above 0 if settled (Strassburger & Bretz 2008)."""
        if self.difference is None:
            return Interval(self.lead, math.nan, math.nan)
        _, low, high = self.difference.interval
        return Interval(self.lead, max(low, 0.0) if self.settled else low, high)

    @property
    def chance(self) -> float:
        """P(one more run of the first scores better than one more of the second), on these items; nan for one seed.

        Student's t for the difference of two new runs: its variance is that of both runs and of both means, with
        Welch's degrees of freedom (Bouthillier et al. 2021, arXiv 2103.03098, ask for this probability).
        """
        a, b = (np.array(each.scores) * each.metric.sign for each in (self.better, self.worse))
        if min(len(a), len(b)) < 2:
            return math.nan
        own = np.array([x.var(ddof=1) * (1 + 1 / len(x)) for x in (a, b)])
        if not own.any():
            return 1.0 if self.lead > 0 else 0.5
        freedom = own.sum() ** 2 / (own**2 / (np.array([len(a), len(b)]) - 1)).sum()
        return float(stats.t.cdf((a.mean() - b.mean()) / math.sqrt(own.sum()), freedom))


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the outcomes show.

    Attributes:
        ranking: the best mean first; then variants that lost in an earlier look, and those with too few seeds.
        pairs: every two variants, in the order of the ranking.
        level: at which each pair is tested; less than 0.05 where there is more than one look.
        of_models: Whether no variant has a second seed: the verdict is about these models, not about their training.
        checks: what makes the comparison void, and what qualifies it.
    """

    outcomes: Outcomes
    ranking: list[Variant]
    pairs: list[Pair]
    level: float
    test: str = "pooled"
    margin: float | None = None  # in the metric's own unit
    of_models: bool = False
    watch: Watch | None = None
    pilot: Pilot | None = None
    checks: list[Check] = field(default_factory=list)

    @property
    def metric(self) -> Metric:
        return self.outcomes.metric

    @cached_property
    def digits(self) -> int:
        """The decimals with which scores are shown."""
        spreads = [float(np.std(variant.scores, ddof=1)) for variant in self.ranking if len(variant.runs) > 1]
        items = max((variant.outcomes.shape[1] for variant in self.ranking), default=1)
        return self.metric.digits([variant.score.mean for variant in self.ranking], spreads, items)

    @property
    def verdict(self) -> str:
        """better, equal, no winner yet or not comparable: the best variant against all others."""
        if any(check.is_void for check in self.checks):
            return VOID
        against = [pair for pair in self.pairs if pair.better is self.ranking[0]]
        if against and all(pair.settled for pair in against):
            return BETTER
        return EQUAL if against and all(pair.settled or pair.equal for pair in against) else OPEN

    @property
    def sentence(self) -> str:
        """The conclusion in one sentence."""
        from referee.sentences import conclusion

        void = [check for check in self.checks if check.is_void]
        return f"Not comparable: {void[0].text}" if void else conclusion(self)

    def between(self, better: str, worse: str | None = None) -> str:
        """Return what is known of one variant against another, or against all others: a verdict, or worse."""
        names = [variant.name for variant in self.ranking]
        for name in (better, worse):
            if name is not None and name not in names:
                raise ValueError(f"{name!r} is no variant with a result: {', '.join(names)}.")
        found = [
            "worse" if pair.settled and pair.worse.name == better else pair.verdict
            for pair in self.pairs
            if better in (pair.better.name, pair.worse.name) and worse in (None, pair.better.name, pair.worse.name)
        ]
        if self.verdict == VOID or not found:
            return VOID
        return max(found, key=[BETTER, EQUAL, OPEN, "worse"].index)  # against several, the least favorable one

    def table(self) -> pd.DataFrame:
        """Return one row for each pair."""
        scale = self.metric.scale
        return pd.DataFrame(
            {
                "better": pair.better.name,
                "worse": pair.worse.name,
                "lead": scale * pair.lead,
                "low": scale * pair.interval.low,
                "high": scale * pair.interval.high,
                "p": pair.p,
                "beats_in_one_more_run": pair.chance,
                "verdict": pair.verdict,
            }
            for pair in self.pairs
        )

    def record(self) -> dict[str, Any]:
        """Return the verdict in plain values, as verdict.json has it."""
        from referee.report.record import as_record

        return as_record(self)

    def report(self, path: str | Path) -> Path:
        """Write the page, and beside it report.md, verdict.json and the figures; return its path."""
        from referee.report.page import write_report

        return write_report(self, Path(path))

    def latex(self) -> str:
        """Return the table of the pairs for a paper."""
        from referee.report.latex import as_latex

        return as_latex(self)


def judge(
    table: Outcomes | pd.DataFrame | Mapping[str, Any] | str | Path,
    margin: float | None = None,
    looks: Sequence[int] = (),
    test: str = "pooled",
    metric: str | None = None,
    lower: bool = False,
    items: int | None = None,
) -> Verdict:
    """Judge runs by their outcomes.

    Args:
        table: Outcomes; a DataFrame with a row for each run and item, or for each run; the same as a dictionary of
            arrays; or a folder or file.
        margin: the smallest difference that matters, as scores are shown: in points for a fraction.
        looks: the numbers of seeds at which the results were or will be looked at; empty: once, with all there are.
        test: pooled, exact, or paired for variants whose equal seeds share more than the order of the data.
        metric, lower: see `read`.
        items: of the test set, where a table of scores is of one seed each and a score is a fraction of the items.

    Raises:
        ValueError: a table that cannot be read, or a setting that does not fit it.
    """
    outcomes = _outcomes(table, metric, lower)
    if test not in TESTS:
        raise ValueError(f"test {test}: give one of {', '.join(TESTS)}.")
    names = outcomes.variants
    variants = [Variant(n, i, runs, outcomes.metric) for i, n in enumerate(names) if (runs := outcomes.of(n))]
    found = checks(outcomes)
    if margin is not None:
        margin /= outcomes.metric.scale
    if len(variants) < 2 or any(check.is_void for check in found):
        return Verdict(outcomes, variants, [], LEVEL, test, margin, checks=found)
    if all(len(variant.runs) == 1 for variant in variants):
        return _of_models(outcomes, variants, margin, items, found)
    return _of_trainings(outcomes, variants, margin, tuple(looks), test, found)


def _outcomes(table: Any, metric: str | None, lower: bool) -> Outcomes:
    if isinstance(table, Outcomes):
        return table
    if isinstance(table, str | Path):
        from referee.sources import read

        return read([table], metric, lower)
    return from_frame(pd.DataFrame(table), metric, lower)


def _of_trainings(
    outcomes: Outcomes,
    variants: list[Variant],
    margin: float | None,
    looks: tuple[int, ...],
    test: str,
    found: list[Check],
) -> Verdict:
    """Judge what training gives: seeds and items are the two sources of chance."""
    several = [variant for variant in variants if len(variant.runs) > 1]
    watched = _watched(outcomes, variants, looks, margin, test) if looks else None
    at = level(looks, test) if looks else LEVEL
    if watched is not None and watched.looks:
        tested = watched.looks[-1].differences
    elif len(several) > 1:
        tested = {
            (several[a].index, several[b].index): each
            for (a, b), each in differences([v.outcomes for v in several], test, at).items()
        }
    else:
        tested = {}
    settled = watched.settled if watched else {}
    beaten = {worse for _, worse in settled}
    sign = outcomes.metric.sign
    ranking = sorted(variants, key=lambda v: (v not in several, v.index in beaten, -sign * v.score.mean))
    pairs = [_pair(a, b, tested, settled, watched is not None, at, margin) for a, b in combinations(ranking, 2)]
    pilot = measured([variant.outcomes for variant in ranking], len(ranking))
    if pilot is not None and looks:
        pilot = pilot._replace(level=growing(looks, True, test))
    return Verdict(outcomes, ranking, pairs, at, test, margin, watch=watched, pilot=pilot, checks=found)


def _watched(
    outcomes: Outcomes, variants: Sequence[Variant], looks: tuple[int, ...], margin: float | None, test: str
) -> Watch:
    seeds = list(dict.fromkeys(run.seed for run in outcomes.runs))
    if len(seeds) > looks[-1]:
        raise ValueError(f"There are {len(seeds)} seeds, and the last look is after {looks[-1]}. Add a look.")
    by_seed: list[dict[Any, np.ndarray | None]] = []
    for variant in variants:
        failed = {run.seed: None for run in outcomes.runs if run.variant == variant.name}
        rows = zip(variant.runs, variant.outcomes, strict=True)
        by_seed.append(failed | {run.seed: row for run, row in rows})
    return watch(by_seed, seeds, looks, margin, test)  # type: ignore[arg-type]


def _pair(
    a: Variant,
    b: Variant,
    tested: Mapping[tuple[int, int], Difference],
    settled: Mapping[tuple[int, int], float],
    watched: bool,
    at: float,
    margin: float | None,
) -> Pair:
    if (b.index, a.index) in settled:  # by an earlier look, whose decision stands
        a, b = b, a
    difference = tested.get((a.index, b.index))
    if difference is None and (other := tested.get((b.index, a.index))) is not None:
        difference = other.reversed()
    if difference is None:
        return Pair(a, b, None)
    p = settled.get((a.index, b.index), difference.adjusted)
    better = (a.index, b.index) in settled if watched else p < at
    return Pair(a, b, difference, p, better, not better and margin is not None and difference.is_within(margin))


def _of_models(
    outcomes: Outcomes, variants: list[Variant], margin: float | None, items: int | None, found: list[Check]
) -> Verdict:
    """Judge these models: items are the only source of chance."""
    metric = outcomes.metric
    ranking = sorted(variants, key=lambda variant: -metric.sign * variant.score.mean)
    both, tested = list(combinations(ranking, 2)), []
    for a, b in both:
        if outcomes.by_item:
            x, y = (variant.by_item(variant.runs[0]) for variant in (a, b))
            tested.append(over_items(x, y, len(both), LEVEL))
        elif items is not None and metric.is_fraction:
            tested.append(over_fractions(a.score.mean, b.score.mean, items, len(both), LEVEL))
    if not tested:
        return Verdict(outcomes, ranking, [Pair(a, b, None) for a, b in both], LEVEL, of_models=True, checks=found)
    adjusted = step_down([each.p for each in tested], len(ranking))
    pairs = []
    for (a, b), each, p in zip(both, tested, adjusted, strict=True):
        equal = margin is not None and p >= LEVEL and each.is_within(margin)
        pairs.append(Pair(a, b, each._replace(adjusted=p), p, p < LEVEL, equal))
    return Verdict(outcomes, ranking, pairs, LEVEL, margin=margin, of_models=True, checks=found)
