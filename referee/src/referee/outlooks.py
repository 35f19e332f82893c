"""What a verdict leaves open: which differences are excluded, what would settle a lead, and what could be missed."""

import math
from collections.abc import Callable, Sequence

from referee.formats import SPACE, counted
from referee.statistics.power import Need, Pilot, detectable, measured, need
from referee.verdict import Pair, Verdict, repetition

MANY_SEEDS = 10  # of each variant, from which "undecided" says what is excluded
Z95 = 1.96  # standard errors in half of a 95 % interval


def outlooks(
    verdict: Verdict,
    asked: Callable[[Pair], bool] | None = None,
    time_of: Callable[[Need], str] | None = None,
) -> list[str]:
    """List what is excluded, what would settle the leads that are open, and what the study could have found.

    Args:
        asked: The pairs that matter; None: those of the best variant.
        time_of: Returns how long a study of some seeds takes; None: not known.
    """
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
    ahead, behind = closest.better.name, closest.worse.name
    if closest.lead < 0:  # the one behind lost at an earlier look
        ahead, behind = behind, ahead
    where = f"of {ahead} over {behind}" if len(unsettled) > 1 else "here"
    found = [detectable(pilot_of(pair, verdict, pilot), seeds) for pair in unsettled]
    low, high = (metric.text(end, verdict.digits) for end in (min(found), max(found)))
    most = metric.difference(max(found), verdict.digits)
    size = most if low == high else f"{low} to {most}, by pair,"
    return [
        *lines,
        *_what_settles(pilot_of(closest, verdict, pilot), where, (small, large), verdict, time_of),
        f"This study would have found a true difference of {size} in 4 of 5 repetitions; smaller ones may have been "
        "missed.",
    ]


def pilot_of(pair: Pair, verdict: Verdict, pilot: Pilot) -> Pilot:
    """Return what is known of a pair alone: its variants may spread more or less than others."""
    both = [pair.better.outcomes, pair.worse.outcomes]
    own = measured(both, pilot.variants, dependence=verdict.outcomes.dependence)
    return pilot if own is None else own._replace(level=pilot.level)


def _what_settles(
    pilot: Pilot, where: str, sizes: Sequence[float], verdict: Verdict, time_of: Callable[[Need], str] | None
) -> list[str]:
    """Return the seeds and the time, or the test items, that leads of some sizes take; `where` names the pair."""
    metric, unit, plans, lines = verdict.metric, verdict.outcomes.unit, [], []
    for size in sizes:
        needed = need(pilot, size)
        if needed.images is None:
            plans.append((size, needed))
            continue
        moved = metric.text(moved_by_items(pilot.point.images), verdict.digits)
        lines.append(
            f"More seeds alone will not settle a lead of {metric.size(size)} {where}: the choice of "
            f"{counted(pilot.test_images, f'test {unit}')} moves it by ±{SPACE}{moved}. It takes "
            f"{required(needed, unit)}."
        )
    if plans:
        (size, needed), *more = plans
        time = "" if time_of is None else f" ({time_of(needed)})"
        plan = f"To settle a true lead of {metric.size(size)} {where}, plan {required(needed, unit)}{time}"
        lines.append("; ".join([plan, *(f"of {metric.size(size)}, {needed.seeds}" for size, needed in more)]) + ".")
    return lines


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
