"""The conclusion of a study in words."""

import math
from collections.abc import Sequence

from vitlab.studies.format import SPACE, counted
from vitlab.studies.report.remarks import objections
from vitlab.studies.results import Pair, StudyResults
from vitlab.studies.statistics.power import MOST_SEEDS, Need, detectable, need


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

    margin = "" if results.margin is None else metric.difference(results.margin, results.digits)
    ahead = [pair for pair in against if pair.settled]
    equal = [pair for pair in against if pair.equal]
    level = [pair for pair in against if not pair.settled and not pair.equal]
    if all(pair.equal for pair in results.pairs):
        variants = _and([result.variant for result in ranking])
        return f"Equal to within {margin}: {variants} ({_seeds(results)})."
    if not ahead and not equal:
        leads = _and([f"{pair.worse.variant} by {gap(pair)}" for pair in level])
        return (
            f"No winner yet ({_seeds(results)}): {best.variant} leads {leads}; leads of this size can still be chance."
        )
    parts = []
    if ahead:
        parts.append(f"{best.variant} is better than {_and([f'{p.worse.variant} by {gap(p)}' for p in ahead])}")
    if equal:
        who = _and([pair.worse.variant for pair in equal])
        parts.append(
            f"equal to within {margin} to {who}" if ahead else f"{best.variant} equals {who} to within {margin}"
        )
    if level:
        rest = _and([f"{pair.worse.variant}, which it leads by {gap(pair)}" for pair in level])
        parts.append(f"no winner yet against {rest}")
    return f"{'; '.join(parts)} ({_seeds(results)})."


def outlooks(results: StudyResults) -> list[str]:
    """List what the study could detect, and what would settle the lead of the first variant over each open one."""
    open_pairs = [
        pair
        for pair in results.pairs
        if pair.better is results.ranking[0] and pair.pilot is not None and not pair.settled
    ]
    lines = []
    for pair in open_pairs:
        assert pair.pilot is not None
        if pair.lead:
            lead = f"a lead of {results.metric.difference(pair.lead, results.digits)} over {pair.worse.variant}"
            needed = need(pair.pilot, pair.lead)
            verb = "More seeds alone will not settle" if needed.images else "To settle"
            lines.append(f"{verb} {lead}, {'it takes' if needed.images else 'plan'} {required(needed)}.")
    if open_pairs:
        fewest = min(len(result.runs) for result in results.ranking if len(result.runs) > 1)
        least = max(detectable(pair.pilot, fewest) for pair in open_pairs if pair.pilot is not None)
        lines.append(
            f"This study would have found a true difference of {results.metric.difference(least, results.digits)} in "
            "four of five repetitions; smaller ones may have been missed."
        )
    return lines


def required(needed: Need) -> str:
    """Return the size of a study that settles a difference."""
    if needed.images is not None:
        unit = 10 ** max(len(str(needed.images)) - 2, 0)
        return f"at least {counted(-(-needed.images // unit) * unit, 'test image')}"
    low, high = (str(seeds) if seeds is not None else f"over {MOST_SEEDS:,}" for seeds in (needed.low, needed.high))
    return f"{low} to {high} seeds of each variant" if low != high else f"{low} seeds of each variant"


def _seeds(results: StudyResults) -> str:
    counts = sorted({len(result.runs) for result in results.ranking})
    return (f"{counts[0]} to " if len(counts) > 1 else "") + f"{counted(counts[-1], 'seed')} each"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
