"""What a table of outcomes shows: variants, pairs of them, and which is better beyond chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from referee.answer import answer
from referee.checks import Check
from referee.claim import NOT_TESTED, Claim
from referee.metric import Metric
from referee.outcomes import Outcomes, Run
from referee.statistics.comparison import Difference
from referee.statistics.intervals import Interval, t_interval
from referee.statistics.power import Pilot
from referee.statistics.relations import OPEN as NOT_SETTLED
from referee.statistics.relations import Finding, claimed
from referee.statistics.sequential import Watch, level_after, levels

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
        """By seed, higher being better: (S, N), bool where an item is right or wrong; (S, 1) scores alone."""
        rows = [self.by_item(run) for run in self.runs]
        return np.stack(rows) if len(set(map(len, rows))) == 1 else np.array([[row.mean()] for row in rows])

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
        return self.interval(self.scores)

    def interval(self, scores: Sequence[float]) -> Interval:
        """Return the mean and 95 % interval of such scores, one for each seed."""
        step = 1 / self.outcomes.shape[1] if self.outcomes.dtype == bool else 0.0
        interval = t_interval(scores, step=step)
        return interval.within(0, 1) if self.metric.is_fraction else interval


class Pair(NamedTuple):
    """A comparison of two variants, the one with the better mean first."""

    better: Variant
    worse: Variant
    difference: Difference | None  # None where one of them has one seed and the other several
    p: float = math.nan  # adjusted for all pairs; of the look that settled the pair
    settled: bool = False  # the first is better beyond chance
    equal: bool = False  # equal to within the margin, by the whole interval if settled

    @property
    def name(self) -> str:
        """Both variants, as in a table."""
        return f"{self.better.name} – {self.worse.name}"

    @property
    def verdict(self) -> str:
        return EQUAL if self.equal else BETTER if self.settled else OPEN

    @property
    def lead(self) -> float:
        """The difference of the means within blocks, 0 or more unless an earlier look settled the pair."""
        if self.difference is not None:
            return self.difference.mean
        return self.better.metric.sign * (self.better.score.mean - self.worse.score.mean)

    @property
    def interval(self) -> Interval:
        """The lead with the interval that holds at once with those of all pairs; of a settled one it may hold 0."""
        return self.difference.interval if self.difference else Interval(self.lead, math.nan, math.nan)

    @property
    def chance(self) -> float:
        """P(one more run of the first scores better than one more of the second), on these items; nan for one seed.

        Student's t for the difference of two new runs: its variance is that of both runs and of both means, with
        Welch's degrees of freedom (Bouthillier et al. 2021, arXiv 2103.03098, ask for this probability).
        """
        a, b = (np.array(each.scores) * each.metric.sign for each in (self.better, self.worse))
        if min(len(a), len(b)) < 2:
            return math.nan
        variances = np.array([x.var(ddof=1) * (1 + 1 / len(x)) for x in (a, b)])
        if not variances.any():
            return 1.0 if self.lead > 0 else 0.5
        freedom = variances.sum() ** 2 / (variances**2 / (np.array([len(a), len(b)]) - 1)).sum()
        return float(stats.t.cdf((a.mean() - b.mean()) / math.sqrt(variances.sum()), freedom))


class Design(NamedTuple):
    """How a study is planned, as far as its tests depend on it.

    Where its seeds are known, variants that lost runs are ranked and named like others, and more seeds than planned are
    one more look.
    """

    test: str = "pooled"
    margin: float | None = None  # the smallest difference that matters, in the metric's own unit
    looks: tuple[int, ...] = ()  # the numbers of seeds at which results are looked at; empty: once, with all there are
    seeds: tuple[str, ...] = ()  # in the order of training; empty: no plan is known
    extended: tuple[int, ...] = ()  # the numbers of seeds of shorter lists that were looked at, before seeds were added
    claim: Claim | None = None  # about the variants; it needs a margin
    unmet: tuple[str, ...] = ()  # why the runs lack what the claim needs

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of seeds at all looks."""
        return self.looks or (*self.extended, len(self.seeds))

    @property
    def level(self) -> float:
        """The level of the first of several looks, or of the only one; of a list that was extended, its own."""
        if self.looks:
            return levels(self.looks, self.test, self.margin is not None)[0]
        return level_after(self.sizes, self.test)


@dataclass(frozen=True, eq=False)
class Verdict:
    """What the outcomes show.

    Attributes:
        ranking: the best mean first; then variants that lost in an earlier look, and those with too few seeds.
        pairs: every two variants, in the order of the ranking.
        of_models: Whether no variant has a second seed: the verdict is about these models, not about their training.
        relations: what the runs say about each relation of the claim.
        checks: what makes the comparison void, and what qualifies it.
    """

    outcomes: Outcomes
    ranking: list[Variant]
    pairs: list[Pair]
    design: Design
    of_models: bool = False
    watch: Watch | None = None
    pilot: Pilot | None = None
    relations: Sequence[Finding] = ()
    checks: list[Check] = field(default_factory=list)

    def __repr__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.sentence)}</p>{self.table().to_html(index=False)}"

    @property
    def margin(self) -> float | None:
        """The smallest difference that matters, in the metric's own unit."""
        return self.design.margin

    @property
    def level(self) -> float:
        """At which each pair is tested; less than 0.05 where there is more than one look."""
        return self.watch.level if self.watch else self.design.level

    @property
    def items(self) -> int:
        """The number of test items; 1 where only scores of whole test sets are known."""
        return max((variant.outcomes.shape[1] for variant in self.ranking), default=1)

    @property
    def metric(self) -> Metric:
        return self.outcomes.metric

    @cached_property
    def digits(self) -> int:
        """The decimals with which scores are shown."""
        spreads = [float(np.std(variant.scores, ddof=1)) for variant in self.ranking if len(variant.runs) > 1]
        return self.metric.digits([variant.score.mean for variant in self.ranking], spreads, self.items)

    @property
    def verdict(self) -> str:
        """better, equal, no winner yet or not comparable: the best variant against all others."""
        if any(check.is_void for check in self.checks):
            return VOID
        words = {pair.verdict for pair in self.pairs if pair.better is self.ranking[0] and self.counts(pair)}
        return next((word for word in (OPEN, EQUAL, BETTER) if word in words), OPEN)

    def counts(self, pair: Pair) -> bool:
        """Whether a pair is judged: where no seeds are planned, one with a single seed is not, and a check names it."""
        return bool(self.design.seeds or pair.difference) or all(each.difference is None for each in self.pairs)

    @property
    def sentence(self) -> str:
        """The conclusion in one sentence."""
        from referee.sentences import conclusion

        void = [check for check in self.checks if check.is_void]
        return f"Not comparable: {void[0].text}" if void else conclusion(self)

    @property
    def word(self) -> str:
        """What the runs say about the claim: repeated, contradicted, equal within the margin, or not settled."""
        if self.verdict == VOID:
            return NOT_SETTLED
        return NOT_TESTED if self.design.unmet else claimed(self.relations)

    def between(self, better: str, worse: str | None = None) -> str:
        """Return what is known of one variant against another, or against all others: a verdict, or worse."""
        return answer(self.record(), better, worse)

    def table(self) -> pd.DataFrame:
        """Return one row for each pair."""
        shown = self.metric.shown
        return pd.DataFrame(
            {
                "better": pair.better.name,
                "worse": pair.worse.name,
                "lead": shown(pair.lead),
                "low": shown(interval.low),
                "high": shown(interval.high),
                "p": pair.p,
                "beats_in_one_more_run": pair.chance,
                "verdict": pair.verdict,
            }
            for pair in self.pairs
            for interval in [pair.interval]  # once: an exact one takes half a second
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
