"""Plan a study: what a true difference takes in seeds, test items, runs and hours, and what other sizes find.

The variances are those of runs that are there (`statistics.power`). Ranges are of 80 %: the variances', and for hours
also the run times'.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from referee.formats import SPACE, counted, two_digits
from referee.metric import Metric
from referee.statistics.power import ENDS, MOST_SEEDS, Need, Pilot, Range, detectable, measured, need
from referee.verdict import Pair, Verdict, repetition

MANY_SEEDS = 10  # of each variant, from which "undecided" says what is excluded
Z95 = 1.96  # standard errors in half of a 95 % interval
SIZES = (3, 5, 7, 10, 15, 20)  # seeds of each variant, in the table


class Span(NamedTuple):
    """A number with its range."""

    point: float
    low: float
    high: float

    def __str__(self) -> str:
        point, *ends = map(two_digits, self)
        return point if ends == [point, point] else f"{point} ({' to '.join(ends)})"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study that is planned: what is known of its variances, and how long its runs take."""

    metric: Metric
    pilot: Pilot
    source: str  # of the variances
    unit: str = "item"  # what a test item is called
    looks: tuple[int, ...] = ()  # the numbers of seeds at which results are looked at; empty: once
    seconds: list[np.ndarray] | None = None  # by variant, of runs that are there, (S,); None: not known
    per_seed: int = 1  # runs of each variant for a seed; more than one where a seed is tuned
    once: int = 0  # runs of each variant before all seeds
    jobs: int = 1  # runs at a time

    def need(self, difference: float) -> Need:
        """Return what finds a true difference in four of five studies."""
        needed, first = need(self.pilot, difference), self.looks[:1] or (2,)
        return Need(Range(*(n and max(n, first[0]) for n in needed.seeds)), needed.images)

    def runs(self, seeds: int) -> int:
        """Return the runs of each variant."""
        return seeds * self.per_seed + self.once

    def detectable(self, seeds: int) -> Span:
        """Return the true difference that four of five studies of this size find, as scores are shown."""
        return Span(*(self.metric.scale * detectable(self.pilot, seeds, end) for end in ENDS))

    def hours(self, seeds: int) -> Span:
        """Return the hours of all runs, finished ones included; `seconds` are known."""
        assert self.seconds is not None
        times, runs = self.seconds, self.runs(seeds)
        total = runs * sum(float(t.mean()) for t in times)
        known = [t for t in times if len(t) > 1]
        # A sum of n future runs about n times the mean of S past ones: variance s² (n + n²/S).
        variance = sum(float(t.var(ddof=1)) * (runs + runs**2 / len(t)) for t in known)
        freedom = sum(len(t) - 1 for t in known)
        half = float(special.stdtrit(freedom, 0.9)) * math.sqrt(variance) if freedom else 0.0
        return Span(*(max(hours, 0.0) / 3600 / self.jobs for hours in (total, total - half, total + half)))


def plan(verdict: Verdict, difference: float) -> str:
    """Plan a study of the same variants, in words; `difference` is as scores are shown: in points for a fraction.

    Raises:
        ValueError: a pilot without two seeds of two variants, or a difference that is not positive.
    """
    if not difference > 0 or not math.isfinite(difference):
        raise ValueError(f"--difference {difference}: give a number above 0, in the unit of the scores.")
    if verdict.pilot is None and (void := [check for check in verdict.checks if check.is_void]):
        raise ValueError(f"A plan needs runs that can be compared. {void[0]}")
    if verdict.pilot is None:
        raise ValueError("A plan needs the spread over seeds: give two seeds or more of two variants.")
    source = f"these {counted(sum(len(variant.runs) for variant in verdict.ranking), 'run')}"
    unit, looks = verdict.outcomes.unit, verdict.design.looks
    planned = Plan(metric=verdict.metric, pilot=verdict.pilot, source=source, unit=unit, looks=looks)
    takes = describe_need(planned, verdict.metric.own(difference))
    return "\n\n".join([variances(planned), takes, sizes_table(planned)])


def variances(planned: Plan, seen: int = 0) -> str:
    """Return what is known of the variances; `seen` are seeds whose results were looked at without a plan."""
    pilot, metric, looks = planned.pilot, planned.metric, planned.looks
    known = (pilot.point, pilot.low, pilot.high)
    seeds = Span(*(metric.scale * each.seeds**0.5 for each in known))
    unit = " points" if metric.is_fraction else ", of the logarithm" if metric.is_log else ""
    lines = [
        f"{counted(pilot.variants, 'variant')}. Variances from {planned.source}; in brackets ranges of 80 %.",
        f"  standard deviation of a run over seeds: {seeds}{unit}",
    ]
    if len(looks) > 1:
        level = f"{pilot.level(looks[-1]):.3f}"
        lines.append(
            f"  results are looked at after {looks[0]} to {looks[-1]} seeds; a lead counts at p below {level}, not 0.05"
        )
    elif seen > 1:
        lines.append(f"  results of {seen} seeds were looked at already, so more seeds have a stricter level")
    if metric.is_fraction and pilot.test_images > 1:
        moved = Span(*(100 * moved_by_items(each.images) for each in known))
        items = counted(pilot.test_images, f"test {planned.unit}")
        lines.append(f"  the choice of {items} moves a difference by ± {moved} points")
    return "\n".join(lines)


def describe_need(planned: Plan, difference: float, rows: Mapping[str, Callable[[Range], str]] | None = None) -> str:
    """Return in words the study that a difference (in the metric's own unit) takes, one quantity a line.

    `rows` are more quantities, from the seeds of each variant.
    """
    pilot, unit, takes = planned.pilot, planned.unit, planned.need(difference)
    size, items = planned.metric.size(difference), counted(pilot.test_images, f"test {unit}")
    if takes.images is not None:
        moved = two_digits(planned.metric.scale * moved_by_items(pilot.point.images))
        return (
            f"More seeds alone will not find a true difference of {size}: the choice of {items} moves it by "
            f"± {moved}{' points' if planned.metric.is_fraction else ''}.\nIt takes {required(takes, unit)}."
        )
    shown = {"seeds of each variant": in_range(takes.seeds, lambda n, end: f"{n:,}")}
    if planned.metric.is_fraction and pilot.test_images > 1:
        shown[f"test {unit}s"] = f"the {pilot.test_images:,} there are"
    shown["runs"] = in_range(takes.seeds, lambda n, end: f"{planned.runs(n) * pilot.variants:,}")
    for name, row in (rows or {}).items():
        shown[name] = shown.get(name, "") + row(takes.seeds)
    title = f"Four of five such studies find a true difference of {size} with"
    return "\n".join([title, *(f"  {name:<22} {text}" for name, text in shown.items())])


def sizes_table(planned: Plan) -> str:
    """Return a text with a row for each size of a study: the difference it finds, and its hours if these are known."""
    metric, timed = planned.metric, planned.seconds is not None
    unit = "points" if metric.is_fraction else metric.axis()
    rows = [["seeds", f"true difference found, {unit}", "runs", *(["hours"] if timed else [])]]
    for n in (size for size in SIZES if size >= min(planned.looks, default=0)):
        row = [str(n), str(planned.detectable(n)), str(planned.runs(n) * planned.pilot.variants)]
        rows.append([*row, str(planned.hours(n))] if timed else row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  " + "   ".join(map(str.rjust, row, widths)) for row in rows)


def in_range(numbers: Range, show: Callable[[int, int], str]) -> str:
    """Return a range in another unit; `show` gets a number of seeds, and which end it is: 0 point, 1 low, 2 high."""
    texts = [f"over {show(MOST_SEEDS, end)}" if n is None else show(n, end) for end, n in enumerate(numbers)]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"


# ---- what a verdict leaves open: which differences are excluded, what would settle a lead, and what could be missed


def outlooks(
    verdict: Verdict,
    asked: Callable[[Pair], bool] | None = None,  # the pairs that matter; None: those of the best variant
    time_of: Callable[[Need], str] | None = None,  # how long a study of some seeds takes
) -> list[str]:
    """List what is excluded, what would settle the leads that are open, and what the study could have found."""
    asked = asked or (lambda pair: pair.better is verdict.ranking[0])
    pilot, metric = verdict.pilot, verdict.metric
    unsettled = [p for p in verdict.pairs if asked(p) and p.difference is not None and not (p.settled or p.equal)]
    unsettled = [p for p in unsettled if len({*p.better.scores, *p.worse.scores}) > 1]  # else no seed changes a score
    if not unsettled or pilot is None or any(check.is_void for check in verdict.checks):
        return [text] if (text := repetition(verdict)) else []
    seeds = min(len(variant.runs) for pair in unsettled for variant in (pair.better, pair.worse))
    detected = detectable(pilot, seeds)
    if detected == 0:  # all scores are the same
        return []
    lines = list(filter(None, [repetition(verdict)]))
    if seeds >= MANY_SEEDS:
        possible = metric.difference(max(abs(end) for pair in unsettled for end in pair.interval[1:]), verdict.digits)
        lines.append(f"Undecided after {counted(seeds, 'seed')}; a true difference above {possible} is excluded.")
    closest = min(unsettled, key=lambda pair: abs(pair.lead))
    small = verdict.margin or round_size(max(abs(closest.lead), detected / 20))
    large = max(round_size(detectable(pilot, 2 * seeds)), round_size(1.5 * small))
    both = closest.better.name, closest.worse.name  # the one behind may have lost at an earlier look
    ahead, behind = both if closest.lead >= 0 else both[::-1]
    where = f"of {ahead} over {behind}" if len(unsettled) > 1 else "here"
    own, unit, plans = pilot_of(closest, verdict, pilot), verdict.outcomes.unit, []
    items = counted(own.test_images, f"test {unit}")
    for size in (small, large):
        if (needed := need(own, size)).images is None:
            plans.append((size, needed))
            continue
        moved = metric.text(moved_by_items(own.point.images), verdict.digits)
        lines.append(
            f"More seeds alone will not settle a lead of {metric.size(size)} {where}: the choice of {items} moves it "
            f"by ±{SPACE}{moved}. It takes {required(needed, unit)}."
        )
    if plans:
        (size, needed), *more = plans
        time = "" if time_of is None else f" ({time_of(needed)})"
        plan = f"To settle a true lead of {metric.size(size)} {where}, plan {required(needed, unit)}{time}"
        lines.append("; ".join([plan, *(f"of {metric.size(size)}, {needed.seeds}" for size, needed in more)]) + ".")
    found = [detectable(pilot_of(pair, verdict, pilot), seeds) for pair in unsettled]
    low, high = (metric.text(end, verdict.digits) for end in (min(found), max(found)))
    most = metric.difference(max(found), verdict.digits)
    amount = most if low == high else f"{low} to {most}, by pair,"
    missed = "in 4 of 5 repetitions; smaller ones may have been missed."
    return [*lines, f"This study would have found a true difference of {amount} {missed}"]


def pilot_of(pair: Pair, verdict: Verdict, pilot: Pilot) -> Pilot:
    """Return what is known of a pair alone: its variants may spread more or less than others."""
    both = [pair.better.outcomes, pair.worse.outcomes]
    own = measured(both, pilot.variants, dependence=verdict.outcomes.dependence)
    return pilot if own is None else own._replace(level=pilot.level)


def required(needed: Need, unit: str = "item") -> str:
    """Return the size of a study that settles a difference."""
    seeds = f"{needed.seeds} seeds of each variant"
    return f"at least {needed.images} test {unit}s; with twice as many, {seeds}" if needed.images else seeds


def moved_by_items(variance: float) -> float:
    """Return by how much another choice of test items moves a difference: half of a 95 % interval."""
    return Z95 * math.sqrt(variance)


def round_size(value: float) -> float:
    """Return the nearest of … 0.7, 1, 1.5, 2, 3, 5, 7, 10, …, by ratio."""
    unit = 10.0 ** math.floor(math.log10(value))
    return min((step * unit for step in (1, 1.5, 2, 3, 5, 7, 10)), key=lambda size: abs(math.log(size / value)))
