"""What a table of outcomes shows: variants, pairs of them, and which is better beyond chance."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from referee.answer import answered
from referee.checks import Check
from referee.claim import NOT_TESTED, Claim, Finding, claimed
from referee.claim import OPEN as NOT_SETTLED
from referee.formats import SPACE, counted, joined, listed
from referee.metric import Metric
from referee.outcomes import Outcomes, Run
from referee.statistics.contrast import Contrast, Interval, t_interval
from referee.statistics.power import Pilot
from referee.statistics.sequential import Watch, level_after, levels

BETTER, OPEN, EQUAL, VOID = "better", "no winner yet", "equal", "not comparable"
DEPENDS = "depends"
MANY = 8  # others, from which the sentence counts them
SOME = 3  # others of one kind, from which it gives the range of leads instead of each with its interval


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
    difference: Contrast | None  # of the look that settled the pair, else of the last; None: too few seeds
    settled: bool = False  # the first is better beyond chance
    equal: bool = False  # equal to within the margin, by the whole interval if settled

    @property
    def name(self) -> str:
        return f"{self.better.name} – {self.worse.name}"

    @property
    def verdict(self) -> str:
        return EQUAL if self.equal else BETTER if self.settled else OPEN

    @property
    def p(self) -> float:
        """Adjusted for all pairs."""
        return self.difference.adjusted if self.difference else math.nan

    @property
    def lead(self) -> float:
        """The difference of the means within blocks."""
        if self.difference is not None:
            return self.difference.mean
        return self.better.metric.sign * (self.better.score.mean - self.worse.score.mean)

    @property
    def interval(self) -> Interval:
        """The lead with the interval that holds at once with those of all pairs: of a better variant from 0 on."""
        if self.difference is None:
            return Interval(self.lead, math.nan, math.nan)
        interval = self.difference.interval
        mean, low, high = interval.within(-1, 1) if self.better.metric.is_fraction else interval
        return Interval(mean, max(low, 0.0), high) if self.settled else Interval(mean, min(low, 0.0), max(high, 0.0))

    def ends(self, digits: int) -> tuple[str, str]:
        """Return both ends of the interval as texts: that of a better variant may begin above 0."""
        metric, (_, low, high) = self.better.metric, self.interval
        above = f"above {metric.text(0.0, 0)}"
        return above if self.settled and low == 0 else metric.text(low, digits), metric.text(high, digits)

    def bracket(self, digits: int) -> str:
        """Return the interval like [0.4, 2.2]; empty without an interval."""
        return "" if math.isnan(self.interval.low) else f"[{f',{SPACE}'.join(self.ends(digits))}]"


def pairs_of(
    ranking: Sequence[Variant], tested: Mapping[tuple[str, str], Contrast], margin: float | None
) -> list[Pair]:
    """Return every two variants of a ranking, from contrasts by name, both ways."""
    pairs = []
    for a, b in combinations(ranking, 2):
        known = tested.get((a.name, b.name))
        settled = known is not None and known.adjusted <= known.level
        if known is not None and settled and known.mean < 0:  # in an earlier look, or on the cells that both have
            a, b, known = b, a, known.reversed()
        pairs.append(pair_of(a, b, known, settled, margin))
    return pairs


def pair_of(a: Variant, b: Variant, difference: Contrast | None, settled: bool, margin: float | None) -> Pair:
    """Return a pair, equal instead of better where its whole interval lies within the margin."""
    pair = Pair(a, b, difference, settled)
    if margin is None or difference is None:
        return pair
    whole = -margin < pair.interval.low and pair.interval.high < margin
    return pair._replace(equal=whole or (not settled and difference.is_within(margin)))


class Effect(NamedTuple):
    """A lead of one level of a factor over another; or an interaction, by how much it is larger at one place."""

    factor: str
    levels: tuple[str, str]  # the one ahead first
    at: str  # the levels of the other factors; empty: the mean over those that both have
    estimate: float
    interval: Interval
    p: float  # adjusted: for all pairs of levels, of those at a place alone; for all interactions
    word: str
    than: str = ""  # of an interaction: the place where it is smaller


class Effects(NamedTuple):
    """What a grid of factors shows."""

    main: list[Effect]
    simple: list[Effect]
    interactions: list[Effect]  # those beyond chance first, then the largest
    of: "dict[str, Verdict]"  # by factor: on its levels


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
    until_cells: bool = False  # looks at a grid go on until its cells are settled, not only its factors

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
    """What the outcomes show, of variants or of means: over a factor's levels or over data sets."""

    outcomes: Outcomes
    ranking: list[Variant]  # the best mean first; then those that lost in an earlier look, and those with too few seeds
    pairs: list[Pair]  # every two variants, in the order of the ranking
    design: Design
    of_models: bool = False  # no variant has a second seed: about these models, not about their training
    watch: Watch | None = None
    pilot: Pilot | None = None
    relations: Sequence[Finding] = ()  # what the runs say about each relation of the claim
    checks: list[Check] = field(default_factory=list)  # what makes the comparison void, and what qualifies it
    effects: Effects | None = None  # of the factors whose cells the variants are
    cells: Sequence[Variant] = ()  # that each one of the ranking is a mean of; empty: none is a mean
    over: str = ""  # over what means are, in words that begin a sentence
    places: Mapping[str, Sequence[Pair]] = field(default_factory=dict)  # of means: the pairs at each, by themselves
    datasets: "Mapping[str, Verdict]" = field(default_factory=dict)  # of means over them: the verdict on each by itself
    general: Sequence[Contrast] = ()  # of five data sets or more: leads on others of the kind, by pair

    def __repr__(self) -> str:
        return self.sentence

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
        return max((variant.outcomes.shape[1] for variant in self.cells or self.ranking), default=1)

    @property
    def metric(self) -> Metric:
        return self.outcomes.metric

    @cached_property
    def digits(self) -> int:
        """The decimals with which scores are shown."""
        several = [variant for variant in self.cells or self.ranking if len(variant.runs) > 1]
        spreads = [float(np.std(variant.scores, ddof=1)) for variant in several]
        return self.metric.digits([variant.score.mean for variant in self.ranking], spreads, self.items)

    @property
    def verdict(self) -> str:
        """better, equal, no winner yet or not comparable: the best variant against all others."""
        if any(check.is_void for check in self.checks):
            return VOID
        words = {pair.verdict for pair in self.pairs if pair.better is self.ranking[0] and self.counts(pair)}
        return next((word for word in (OPEN, EQUAL, BETTER) if word in words), OPEN)

    def lead_of(self, a: str, b: str) -> Contrast | None:
        """Return what is known of the first variant's lead over the second; None: nothing."""
        for pair in self.pairs:
            if pair.difference is not None and {pair.better.name, pair.worse.name} == {a, b}:
                return pair.difference if pair.better.name == a else pair.difference.reversed()
        return None

    def counts(self, pair: Pair) -> bool:
        """Whether a pair is judged: where no seeds are planned, one with a single seed is not, and a check names it."""
        return bool(self.design.seeds or pair.difference) or all(each.difference is None for each in self.pairs)

    @property
    def sentence(self) -> str:
        """The conclusion in one sentence; in one for each factor."""
        void = [check for check in self.checks if check.is_void]
        if void or self.effects is None:
            return f"Not comparable: {void[0].text}" if void else conclusion(self)
        return " ".join(
            f"{factor[:1].upper()}{factor[1:]}, on average: {_conclusion(of)}" if of.over else conclusion(of)
            for factor, of in self.effects.of.items()
            if len(of.ranking) > 1
        )

    @property
    def word(self) -> str:
        """What the runs say about the claim: repeated, contradicted, equal within the margin, or not settled."""
        if self.verdict == VOID:
            return NOT_SETTLED
        return NOT_TESTED if self.design.unmet else claimed(self.relations)

    def between(self, better: str, worse: str | None = None, in_general: bool = False) -> str:
        """Return what is known of one variant against another, or all others: a verdict, or worse; see `answered`."""
        return answered(self.record(), better, worse, in_general=in_general)[1]

    def alone(self, pair: Pair) -> Pair:
        """Return a pair as if it were the only one of interest, so that nothing is corrected for the others."""
        if (known := pair.difference) is None:
            return pair
        known = known._replace(pairs=1, adjusted=known.p, alpha=known.level)
        return pair_of(pair.better, pair.worse, known, known.mean > 0 and known.p <= known.level, self.margin)

    def table(self) -> pd.DataFrame:
        """Return one row for each pair."""
        rows, shown = [], self.metric.shown
        for pair in self.pairs:
            alone = self.alone(pair)
            row = {"better": pair.better.name, "worse": pair.worse.name, "lead": shown(pair.lead)}
            row |= {end: shown(getattr(pair.interval, end)) for end in ("low", "high")}
            row |= {"p": pair.p, "verdict": pair.verdict, "alone": alone.verdict}
            row |= {f"{end}_alone": shown(getattr(alone.interval, end)) for end in ("low", "high")}
            rows.append(row | {"p_alone": alone.p})
        for row, lead in zip(rows, self.general, strict=False):
            _, low, high = lead.elsewhere
            word = BETTER if lead.mean > 0 and lead.adjusted <= lead.level else OPEN
            row |= {"low_elsewhere": shown(low), "high_elsewhere": shown(high)}
            row |= {"p_in_general": lead.adjusted, "in_general": word}
        return pd.DataFrame(rows)

    def record(self) -> dict[str, Any]:
        """Return the verdict in plain values; scores and differences as the report shows them."""
        shown, watch = self.metric.shown, self.watch
        variants = [
            {"variant": v.name}
            | {end: shown(value) for end, value in v.score._asdict().items()}
            | {"datasets" if self.datasets else "seeds": len(v.runs)}
            for v in self.ranking
        ]
        rows = self.table().rename(columns={"lead": "mean", "p": "adjusted_p"}).to_dict("records")
        pairs = [row for row, pair in zip(rows, self.pairs, strict=True) if self.counts(pair)]
        record: dict[str, Any] = {
            "headline": self.sentence,
            "verdict": self.verdict,
            "scope": scope(self),
            "metric": self.metric.name,
            "test": self.design.test,
            "level": self.level,
            "margin": None if self.margin is None else shown(self.margin),
            "look": len(watch.looks) if watch else 1,
            "stop": watch.stop if watch else "fixed",
            "variants": [_known(variant) for variant in variants],
            "pairs": [_known(pair) for pair in pairs],
            "checks": [{"code": check.code, "text": check.text, "void": check.is_void} for check in self.checks],
            "notes": self.outcomes.notes,
        }
        if self.datasets:
            keys = ("headline", "verdict", "pairs")
            each = {d: of.record() for d, of in self.datasets.items()}
            record["datasets"] = {d: {key: of[key] for key in keys} for d, of in each.items()}
        if self.effects is not None:
            factors = self.outcomes.factors or {}
            record["factors"] = {name: dict(of) for name, of in factors.items()}
            for kind in ("main", "simple", "interactions"):
                record[kind] = []
                for effect in getattr(self.effects, kind):
                    ends = {end: shown(value) for end, value in effect.interval._asdict().items()}
                    each = {k: v for k, v in effect._asdict().items() if k not in ("estimate", "interval")}
                    record[kind].append(_known(each | ends))
        return record

    def report(self, path: str | Path) -> Path:
        """Write the page, and beside it report.md, verdict.json and the figures; return its path."""
        from referee.report.page import write_report

        return write_report(self, Path(path))

    def latex(self) -> str:
        """Return the table of the pairs for a paper."""
        from referee.report.page import as_latex

        return as_latex(self)


def _known(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return values with None in place of nan and infinity, which JSON has not."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


# ---- in words


def conclusion(verdict: Verdict) -> str:
    """Summarize in one sentence who leads, by how much, and how sure that is; of averages also where."""
    if not verdict.over or not verdict.pairs or verdict.pairs[0].difference is None:
        return f"{verdict.over} {_conclusion(verdict)}".strip()
    pair = verdict.pairs[0]
    names = pair.better.name, pair.worse.name
    pairs = [each for of in verdict.places.values() for each in of if {each.better.name, each.worse.name} == {*names}]
    signs = [np.sign(each.lead) * (1 if each.better.name == names[0] else -1) for each in pairs]
    settled = sum(each.verdict == BETTER and each.better.name == names[0] for each in pairs)
    where = f"ahead on {signs.count(1)}, settled on {settled}"
    where += f"; behind on {signs.count(-1)}" if -1 in signs else ""
    if len(verdict.ranking) == 2 and pair.verdict == BETTER:
        gap = _gap(pair, verdict).replace(" (", " on average (", 1)[:-1]
        return f"{verdict.over} {pair.better.name} leads {pair.worse.name} by {gap}; {_seeds(verdict)}): {where}."
    text = _conclusion(verdict)
    text = text[0].lower() + text[1:] if text.startswith(("No winner", "Equal to")) else text
    return f"{verdict.over} {text[:-1]}; {pair.better.name} is ahead of {pair.worse.name} {where[6:]}."


def _conclusion(verdict: Verdict) -> str:
    ranking, metric = verdict.ranking, verdict.metric
    if not ranking:
        return "No run finished, so there is nothing to compare."
    best = ranking[0]
    if len(ranking) == 1:
        return f"Only {best.name} has finished runs, so there is nothing to compare."
    against = [pair for pair in verdict.pairs if pair.better is best and verdict.counts(pair)]
    if all(pair.difference is None for pair in against):
        score = metric.text(best.score.mean, verdict.digits)
        shown = f"{score}{SPACE}%" if metric.is_fraction else f"{metric.name} {score}"
        scored = f"{best.name} scored {'highest' if metric.mode == 'max' else 'lowest'} ({shown})"
        return f"{scored}, but a single seed cannot distinguish a difference from chance."
    margin = "" if verdict.margin is None else metric.size(verdict.margin)
    ahead = [pair for pair in against if pair.settled and not pair.equal]
    equal = [pair for pair in against if pair.equal]
    level = [pair for pair in against if not pair.settled and not pair.equal]
    if all(pair.equal for pair in verdict.pairs):
        return f"Equal to within {margin}: {joined([variant.name for variant in ranking])} ({_seeds(verdict)})."
    seeds = _seeds(verdict) + (f"; margin {margin}" if margin and not equal else "")
    if not ahead and not equal:
        leads = joined([f"{pair.worse.name} by {_gap(pair, verdict)}" for pair in level])
        return f"No winner yet ({seeds}): {best.name} leads {leads}; leads of this size can still be chance."
    parts = [f"{best.name} is better than {_leads(ahead, ' by ', len(against), verdict)}"] if ahead else []
    if near := [pair.worse.name for pair in ahead if margin and not pair.interval.low > (verdict.margin or 0.0)]:
        than = "" if len(near) == len(ahead) == len(against) else f" than {listed(near)}"
        parts.append(f"whether by more than {margin}{than} is open")
    if equal:
        who = joined([pair.worse.name for pair in equal])
        parts.append(f"equal to within {margin} to {who}" if ahead else f"{best.name} equals {who} to within {margin}")
    if len(level) > MANY:
        parts.append(f"no winner yet against {listed([pair.worse.name for pair in level])}")
    elif level:
        parts.append(f"no winner yet against {_leads(level, ', which it leads by ', len(against), verdict)}")
    return f"{'; '.join(parts)} ({seeds})."


def _leads(pairs: Sequence[Pair], by: str, others: int, verdict: Verdict) -> str:
    """Return over whom the best variant leads and by how much, of more than a few by the least and the largest lead."""
    if len(pairs) <= (SOME if others <= 2 * SOME else 1):
        return joined([f"{pair.worse.name}{by}{_gap(pair, verdict)}" for pair in pairs])
    leads = [pair.lead for pair in pairs]
    low, high = verdict.metric.text(min(leads), verdict.digits), verdict.metric.difference(max(leads), verdict.digits)
    who = joined([pair.worse.name for pair in pairs]) if len(pairs) <= MANY else f"{len(pairs)} of {others} others,"
    return f"{who}{by}{low} to {high}"


def scope(verdict: Verdict) -> str:
    """Return what the verdict is about: which chance its intervals are over."""
    if verdict.outcomes.unit == "fold":
        return "Intervals are over folds, corrected for the training images that these share."
    if verdict.of_models:
        which = "either" if len(verdict.ranking) == 2 else "any of them"
        about = f"It is about these models on such items; nothing is known about another training of {which}."
        if not verdict.outcomes.by_item and any(pair.difference for pair in verdict.pairs):
            return f"{about} Which items each gets right is not known, so the models are taken to be independent."
        return about
    groups, unit = None if verdict.datasets else verdict.outcomes.groups, verdict.outcomes.unit
    if verdict.items == 1:
        return "Intervals are over seeds alone: on other test items the order may differ."
    of_groups = "" if groups is None else f"{counted(int(groups.max()) + 1, 'group')} of "
    return f"Intervals are over seeds and {of_groups}test {unit}s."


def _gap(pair: Pair, verdict: Verdict) -> str:
    lead = verdict.metric.difference(pair.lead, verdict.digits)
    return lead if math.isnan(pair.interval.low) else f"{lead} ({' to '.join(pair.ends(verdict.digits))})"


def repetition(verdict: Verdict) -> str:
    """Return what the best variant's leads may be without the luck that ended a watched study; else empty."""
    leads = []
    for pair in verdict.pairs:
        if pair.better is verdict.ranking[0] and pair.verdict == BETTER and pair.difference:
            lead = verdict.metric.difference(pair.lead - pair.difference.seeds / pair.lead, verdict.digits)
            leads.append(f"{lead} over {pair.worse.name}")
    if len(verdict.design.looks) < 2 or not leads or verdict.verdict == VOID:
        return ""
    shown = joined(leads)
    return f"A lead at which a study stops is too large: a repetition would show about {shown}."


def _seeds(verdict: Verdict) -> str:
    if verdict.outcomes.unit == "fold":
        return f"{counted(verdict.items, 'fold')} each"
    if verdict.of_models:
        return "these models, one seed each"
    counts = sorted({len(variant.runs) for variant in verdict.cells or verdict.ranking})
    if not verdict.design.seeds:
        counts = [count for count in counts if count > 1] or counts
    return (f"{counts[0]} to " if len(counts) > 1 else "") + f"{counted(counts[-1], 'seed')} each"
