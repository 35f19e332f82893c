"""Which variants differ beyond chance: the table of outcomes → a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from referee.answer import answer
from referee.checks import Check, checks
from referee.claim import NOT_TESTED, Claim
from referee.formats import joined
from referee.metric import Metric
from referee.outcomes import Outcomes, Run, from_frame
from referee.statistics.blocks import estimated, not_compared
from referee.statistics.comparison import LEVEL, TESTS, Dependence, Difference, differences, step_down
from referee.statistics.intervals import Interval, t_interval
from referee.statistics.items import over_fractions, over_items
from referee.statistics.power import Pilot, growing, measured
from referee.statistics.relations import OPEN as NOT_SETTLED
from referee.statistics.relations import Finding, Race, Rows, claimed
from referee.statistics.sequential import Watch, level_after, levels, watch

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
        same = len({(row.dtype, len(row)) for row in rows}) == 1
        return np.stack(rows) if same else np.array([[row.mean()] for row in rows])

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
    equal: bool = False  # not settled, and equal to within the margin

    @property
    def name(self) -> str:
        """Both variants, as in a table."""
        return f"{self.better.name} – {self.worse.name}"

    @property
    def verdict(self) -> str:
        return BETTER if self.settled else EQUAL if self.equal else OPEN

    @property
    def lead(self) -> float:
        """The difference of the means within blocks, 0 or more unless an earlier look settled the pair."""
        if self.difference is not None:
            return self.difference.mean
        return self.better.metric.sign * (self.better.score.mean - self.worse.score.mean)

    @property
    def interval(self) -> Interval:
        """The lead with the interval that holds at once with those of all pairs; of a settled one it may hold 0."""
        if self.difference is None:
            return Interval(self.lead, math.nan, math.nan)
        _, low, high = self.difference.interval
        return Interval(self.lead, low, high)

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


@dataclass(frozen=True)
class Design:
    """How a study is planned, as far as its tests depend on it.

    Attributes:
        margin: the smallest difference that matters, in the metric's own unit.
        looks: the numbers of seeds at which results are looked at; empty: once, with all there are.
        seeds: in the order of training; empty: no plan is known. Where one is, variants that lost runs are ranked and
            named like others, and more seeds than planned are one more look.
        extended: the numbers of seeds of shorter lists that were looked at, before seeds were added.
        claim: about the variants; it needs a margin.
        unmet: why the runs lack what the claim needs.
    """

    test: str = "pooled"
    margin: float | None = None
    looks: tuple[int, ...] = ()
    seeds: tuple[str, ...] = ()
    extended: tuple[int, ...] = ()
    claim: Claim | None = None
    unmet: tuple[str, ...] = ()

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
        metric: see `read`.
        lower: see `read`.
        items: of the test set, where a table of scores is of one seed each and a score is a fraction of the items.

    Raises:
        ValueError: a table that cannot be read, or a setting that does not fit it.
    """
    outcomes = _outcomes(table, metric, lower)
    if test not in TESTS:
        raise ValueError(f"test {test}: give one of {', '.join(TESTS)}.")
    findings = [*apart_by_block(outcomes, test), *checks(outcomes)]
    design = Design(test, None if margin is None else outcomes.metric.own(margin), tuple(looks))
    variants = _variants(outcomes)
    if len(variants) < 2 or any(check.is_void for check in findings):
        return Verdict(outcomes, variants, [], design, checks=findings)
    if all(len(variant.runs) == 1 for variant in variants):
        return _of_models(outcomes, variants, design, items, findings)
    return of_trainings(outcomes, design, findings)


def apart_by_block(outcomes: Outcomes, test: str) -> list[Check]:
    """Return the finding that a variant and a block cannot be told apart: a void one."""
    blocks = outcomes.blocks or {}
    both = not_compared(blocks, test)
    if both is None:
        return []
    (a, b), ran = both, [sorted(set(blocks[name].values())) for name in both]
    where = f"{a} ran in {joined(ran[0])}, {b} in {joined(ran[1])}"
    share = "no block" if test == "pooled" else f"not the same blocks, as test: {test} needs"
    return [Check("R013", f"{where}: they share {share}, and the lead may come from there.", is_void=True)]


def _outcomes(table: Any, metric: str | None, lower: bool) -> Outcomes:
    if isinstance(table, Outcomes):
        return table
    if isinstance(table, str | Path):
        from referee.sources import read

        return read([table], metric, lower)
    return from_frame(pd.DataFrame(table), metric, lower)


def _variants(outcomes: Outcomes, paired: bool = False) -> list[Variant]:
    """Return the variants that have runs with a result; paired, with the seeds that all have, if any, in one order."""
    runs = {name: each for name in outcomes.variants if (each := outcomes.of(name))}
    shared = set.intersection(*({run.seed for run in each} for each in runs.values())) if paired and runs else set()
    if shared:
        order = {run.seed: place for place, run in enumerate(next(iter(runs.values())))}
        runs = {name: [run for run in each if run.seed in shared] for name, each in runs.items()}
        runs = {name: sorted(each, key=lambda run: order[run.seed]) for name, each in runs.items()}
    return [Variant(name, i, runs[name], outcomes.metric) for i, name in enumerate(outcomes.variants) if name in runs]


def of_trainings(outcomes: Outcomes, design: Design, findings: Sequence[Check] = ()) -> Verdict:
    """Judge what training gives: seeds and items are the two sources of chance."""
    claim, margin, blocks = design.claim, design.margin, outcomes.blocks
    race = None
    if claim is not None and margin is not None:
        race = Race(claim.relations, margin, design.test, outcomes.dependence, blocks)
    watched = _watched(outcomes, design, race) if design.looks else None
    if race and not watched:
        race.look(_rows(outcomes), design.level)
    settled = watched.settled if watched else {}
    beaten = {worse for _, worse in settled}
    variants = _variants(outcomes, design.test == "paired")
    by_seed = {variant.index: variant.outcomes for variant in variants}
    if blocks is not None and design.test == "pooled":
        by_seed = _without_blocks(variants)

    def place(variant: Variant) -> tuple[bool, bool, float]:
        too_few = not design.seeds and len(variant.runs) == 1
        return too_few, variant.index in beaten, -float(by_seed[variant.index].mean(axis=1).mean())

    ranking = sorted(variants, key=place)
    tested = (
        watched.looks[-1].differences if watched and watched.looks else _tested(ranking, design, outcomes.dependence)
    )
    pairs = [_pair(a, b, tested, settled, design) for a, b in combinations(ranking, 2)]
    known = [by_seed[variant.index] for variant in ranking]
    pilot = measured(known, len(ranking), dependence=outcomes.dependence)
    if pilot is not None and (design.looks or design.seeds):
        pilot = pilot._replace(level=growing(design.sizes, bool(design.looks), design.test, design.margin is not None))
    relations = race.findings if race else ()
    return Verdict(
        outcomes, ranking, pairs, design, watch=watched, pilot=pilot, relations=relations, checks=list(findings)
    )


def _watched(outcomes: Outcomes, design: Design, race: Race | None) -> Watch:
    seeds: Sequence[str | None] = design.seeds or tuple(dict.fromkeys(run.seed for run in outcomes.runs))
    if len(seeds) > design.looks[-1]:
        raise ValueError(f"There are {len(seeds)} seeds, and the last look is after {design.looks[-1]}. Add a look.")
    seeds = [*seeds, *[None] * (design.looks[-1] - len(seeds))]  # a look without all its seeds is not there yet
    rows = _rows(outcomes)

    def look(state: Watch) -> set[int]:
        assert race is not None
        trained = {name: seeds[: state.trained[v]] for v, name in enumerate(outcomes.variants)}
        race.look({name: {seed: rows[name][seed] for seed in each} for name, each in trained.items()}, state.level)
        return {outcomes.variants.index(name) for name in race.racing}

    by_seed = [rows[name] for name in outcomes.variants]
    each = look if race else None
    blocks = None if outcomes.blocks is None else [outcomes.blocks[name] for name in outcomes.variants]
    state = watch(by_seed, seeds, design.looks, design.margin, design.test, outcomes.dependence, each, blocks)
    if state.stop == "decided" and race and race.is_level:
        state.stop = "equal"
    return state


def _rows(outcomes: Outcomes) -> Mapping[str, Rows]:
    """Return the outcomes of each variant by seed, None where a run has no result."""
    rows: dict[str, dict[str, np.ndarray | None]] = {
        name: {run.seed: None for run in outcomes.runs if run.variant == name} for name in outcomes.variants
    }
    for variant in _variants(outcomes):
        rows[variant.name] |= {run.seed: row for run, row in zip(variant.runs, variant.outcomes, strict=True)}
    return rows


def _blocks_of(variants: Sequence[Variant]) -> list[np.ndarray] | None:
    """Return the block of each run by variant; None where there is a single one."""
    blocks = [np.array([run.block for run in variant.runs]) for variant in variants]
    return blocks if len(set(np.concatenate(blocks))) > 1 else None


def _without_blocks(variants: Sequence[Variant]) -> dict[int, np.ndarray]:
    """Return the outcomes of each variant, by its index, without the effects of blocks."""
    blocks = _blocks_of(variants)
    assert blocks is not None
    outcomes = [variant.outcomes for variant in variants]
    apart = estimated([y.mean(axis=1) for y in outcomes], blocks).taken_off(outcomes)
    return {variant.index: y for variant, y in zip(variants, apart, strict=True)}


def _tested(ranking: Sequence[Variant], design: Design, dependence: Dependence) -> dict[tuple[int, int], Difference]:
    """Return each variant, by its index, minus each other that has several seeds too; paired, the same seeds."""
    several = [variant for variant in ranking if len(variant.runs) > 1]
    lists = {tuple(run.seed for run in variant.runs) for variant in several}
    if len(several) < 2 or (design.test == "paired" and len(lists) > 1):
        return {}
    blocks = _blocks_of(several)
    tests = differences([variant.outcomes for variant in several], design.test, design.level, dependence, blocks)
    return {(several[a].index, several[b].index): each for (a, b), each in tests.items()}


def _pair(
    a: Variant,
    b: Variant,
    tested: Mapping[tuple[int, int], Difference],
    settled: Mapping[tuple[int, int], float],
    design: Design,
) -> Pair:
    if (b.index, a.index) in settled:  # by an earlier look, whose decision stands
        a, b = b, a
    difference = tested.get((a.index, b.index))
    if difference is None and (other := tested.get((b.index, a.index))) is not None:
        difference = other.reversed()
    if difference is None:
        return Pair(a, b, None)
    p = settled.get((a.index, b.index), difference.adjusted)
    better = (a.index, b.index) in settled if design.looks else p < design.level
    equal = not better and design.margin is not None and difference.is_within(design.margin)
    return Pair(a, b, difference, p, better, equal)


def _of_models(
    outcomes: Outcomes, variants: list[Variant], design: Design, items: int | None, findings: list[Check]
) -> Verdict:
    """Judge these models: items are the only source of chance."""
    metric = outcomes.metric
    ranking = sorted(variants, key=lambda variant: -metric.sign * variant.score.mean)
    both, tested = list(combinations(ranking, 2)), []
    for a, b in both:
        if outcomes.by_item:
            x, y = (variant.by_item(variant.runs[0]) for variant in (a, b))
            tested.append(over_items(x, y, len(both), LEVEL, outcomes.dependence))
        elif items is not None and metric.is_fraction:
            tested.append(over_fractions(a.score.mean, b.score.mean, items, len(both), LEVEL))
    if not tested:
        return Verdict(outcomes, ranking, [Pair(a, b, None) for a, b in both], design, of_models=True, checks=findings)
    adjusted = step_down([each.p for each in tested], len(ranking))
    pairs = []
    for (a, b), each, p in zip(both, tested, adjusted, strict=True):
        equal = design.margin is not None and p >= LEVEL and each.is_within(design.margin)
        pairs.append(Pair(a, b, each._replace(adjusted=p), p, p < LEVEL, equal))
    return Verdict(outcomes, ranking, pairs, replace(design, looks=()), of_models=True, checks=findings)
