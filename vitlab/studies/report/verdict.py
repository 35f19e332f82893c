"""The conclusion of a study in words."""

import math
from collections.abc import Sequence

from referee.formats import SPACE, counted, joined
from referee.statistics.power import MOST_SEEDS, Need, Pilot, detectable, need

from vitlab.studies.execution.local import allot
from vitlab.studies.format import duration
from vitlab.studies.report.remarks import objections
from vitlab.studies.results import Pair, StudyResults

MANY_SEEDS = 10  # of each variant, from which "undecided" says what is excluded
Z95 = 1.96  # standard errors in half of a 95 % interval


def verdict(results: StudyResults) -> str:
    """Return the headline: what the study shows, or why it shows nothing about its variants."""
    void = objections(results)
    if not void:
        return conclusion(results)
    sentence = void[0].removeprefix("Not a pure ")
    return f"Not comparable: {'not a pure ' if sentence != void[0] else ''}{sentence}"


def conclusion(results: StudyResults) -> str:
    """Summarize in one sentence who leads, by how much, and how sure that is."""
    ranking, metric = results.ranking, results.metric
    if not ranking:
        return "No run finished, so there is nothing to compare."
    best = ranking[0]
    if len(ranking) == 1:
        return f"Only {best.variant} has finished runs, so there is nothing to compare."
    against = [pair for pair in results.pairs if pair.better is best]
    if all(pair.difference is None for pair in against):
        score = metric.text(best.score.mean, results.digits)
        shown = f"{score}{SPACE}%" if metric.is_accuracy else f"{metric.name} {score}"
        scored = f"{best.variant} scored {'highest' if metric.mode == 'max' else 'lowest'} ({shown})"
        return f"{scored}, but a single seed cannot distinguish a difference from chance."

    def gap(pair: Pair) -> str:
        low, high = (metric.text(end, results.digits) for end in pair.interval[1:])
        lead = metric.difference(pair.lead, results.digits)
        return lead if math.isnan(pair.interval.low) else f"{lead} ({low} to {high})"

    margin = "" if results.margin is None else metric.size(results.margin)
    ahead = [pair for pair in against if pair.settled]
    equal = [pair for pair in against if pair.equal]
    level = [pair for pair in against if not pair.settled and not pair.equal]
    if all(pair.equal for pair in results.pairs):
        variants = joined([result.variant for result in ranking])
        return f"Equal to within {margin}: {variants} ({_seeds(results)})."
    seeds = _seeds(results) + (f"; margin {margin}" if margin and not equal else "")
    if not ahead and not equal:
        leads = joined([f"{pair.worse.variant} by {gap(pair)}" for pair in level])
        return f"No winner yet ({seeds}): {best.variant} leads {leads}; leads of this size can still be chance."
    parts = []
    if ahead:
        parts.append(f"{best.variant} is better than {joined([f'{p.worse.variant} by {gap(p)}' for p in ahead])}")
    if equal:
        who = joined([pair.worse.variant for pair in equal])
        parts.append(
            f"equal to within {margin} to {who}" if ahead else f"{best.variant} equals {who} to within {margin}"
        )
    if level:
        rest = joined([f"{pair.worse.variant}, which it leads by {gap(pair)}" for pair in level])
        parts.append(f"no winner yet against {rest}")
    return f"{'; '.join(parts)} ({seeds})."


def outlooks(results: StudyResults) -> list[str]:
    """List what is excluded, what would settle the leads that are open, and what the study could have found.

    The leads are those of the best variant; of a study that tests a claim, those that the claim is about.
    """
    pilot, metric, claim = results.pilot, results.metric, results.study.claim
    unsettled = [
        pair
        for pair in results.pairs
        if (claim.relates(pair.better.variant, pair.worse.variant) if claim else pair.better is results.ranking[0])
        and not (pair.settled or pair.equal or pair.difference is None)
    ]
    if not unsettled or pilot is None:
        return []
    seeds = min(len(result.runs) for pair in unsettled for result in (pair.better, pair.worse))
    found = detectable(pilot, seeds)
    if found == 0:  # all scores are the same
        return []
    lines = []
    if seeds >= MANY_SEEDS:
        possible = metric.difference(max(abs(end) for pair in unsettled for end in pair.interval[1:]), results.digits)
        lines.append(f"Undecided after {counted(seeds, 'seed')}; a true difference above {possible} is excluded.")
    small = results.margin or round_size(max(min(pair.lead for pair in unsettled), found / 20))
    large = max(round_size(detectable(pilot, 2 * seeds)), round_size(1.5 * small))
    return [
        *lines,
        *_what_settles(pilot, (small, large), results),
        f"This study would have found a true difference of {metric.difference(found, results.digits)} in 4 of 5 "
        "repetitions; smaller ones may have been missed.",
    ]


def _what_settles(pilot: Pilot, sizes: Sequence[float], results: StudyResults) -> list[str]:
    """Return the seeds and the time, or the test images, that leads of some sizes take."""
    metric, plans, lines = results.metric, [], []
    for size in sizes:
        needed = need(pilot, size)
        if needed.images is None:
            plans.append((size, needed))
            continue
        moved = metric.text(moved_by_images(pilot.point.images), results.digits)
        lines.append(
            f"More seeds alone will not settle a lead of {metric.size(size)}: the choice of "
            f"{counted(pilot.test_images, 'test image')} moves it by ±{SPACE}{moved}. It takes {required(needed)}."
        )
    if plans:
        (size, needed), *more = plans
        plan = f"To settle a true lead of {metric.size(size)} here, plan {required(needed)} ({_time(needed, results)})"
        lines.append("; ".join([plan, *(f"of {metric.size(size)}, {needed.seeds}" for size, needed in more)]) + ".")
    return lines


def required(needed: Need) -> str:
    """Return the size of a study that settles a difference."""
    return f"{needed.images} test images" if needed.images else f"{needed.seeds} seeds of each variant"


def moved_by_images(variance: float) -> float:
    """Return by how much another choice of test images moves a difference: half of a 95 % interval."""
    return Z95 * math.sqrt(variance)


def round_size(value: float) -> float:
    """Return the nearest of … 0.7, 1, 1.5, 2, 3, 5, 7, 10, …, by ratio."""
    unit = 10.0 ** math.floor(math.log10(value))
    return min((step * unit for step in (1, 1.5, 2, 3, 5, 7, 10)), key=lambda size: abs(math.log(size / value)))


def _time(needed: Need, results: StudyResults) -> str:
    """Return how long a study of that size takes, from its own runs."""
    jobs = allot([result.run for result in results.finished], results.study.jobs).jobs
    each = sum(result.mean("seconds") for result in results.ranking) / jobs
    low, high = (None if seeds is None else seeds * each for seeds in needed.seeds[1:])
    return duration(MOST_SEEDS * each, None) if low is None else duration(low, high)


def _seeds(results: StudyResults) -> str:
    counts = sorted({len(result.runs) for result in results.ranking})
    return (f"{counts[0]} to " if len(counts) > 1 else "") + f"{counted(counts[-1], 'seed')} each"
