"""The conclusion of a study in words."""

import math
from collections.abc import Sequence
from itertools import combinations

from vitlab.evaluation.cost import doubts
from vitlab.studies.format import SPACE, as_yaml, bracket, counted, digits_for, percent
from vitlab.studies.results import Pair, RunResult, StudyResults
from vitlab.studies.statistics.intervals import Interval
from vitlab.studies.statistics.power import MOST_SEEDS, Outlook


def verdict(results: StudyResults) -> str:
    """Summarize in one sentence what the study shows."""
    ranking = results.ranking
    if not ranking:
        return "No run finished, so there is nothing to compare."
    if len(ranking) == 1:
        return f"Only {ranking[0].variant} has finished runs, so there is nothing to compare."
    best = ranking[0]
    against = [pair for pair in results.pairs if pair.better is best]
    digits = digits_for(len(results.labels))
    if not against:
        return f"{best.variant} scored highest, but shares no seed with the others; nothing can be concluded."
    if all(pair.comparison.seeds == 1 for pair in against):
        score = percent(best.accuracy.mean, digits)
        return (
            f"{best.variant} scored highest ({score}{SPACE}%), but a single seed cannot distinguish a difference from "
            "chance."
        )

    ahead = [pair for pair in against if pair.separable]
    level = [pair for pair in against if not pair.separable]
    if not ahead:
        return (
            f"Not separable at {_seeds(level)}{_too_few(level)}: {best.variant} has the highest mean, "
            f"{_and([_margin(pair, digits) for pair in level])}."
        )
    lead = f"{best.variant} is better than {_and([_lead(pair, digits) for pair in ahead])}"
    if not level:
        return f"{lead}."
    rest = _and([f"{pair.worse.variant} ({_gap(pair.comparison.difference, digits)})" for pair in level])
    return f"{lead}, but not separable from {rest} at {_seeds(level)}."


def outlooks(results: StudyResults) -> list[str]:
    """List what the study could detect, for each variant that is not separable from the first of the ranking."""
    level = [
        (pair, pair.outlook)
        for pair in results.pairs
        if pair.better is results.ranking[0] and pair.outlook is not None and not pair.separable
    ]
    blind = [outlook.least_seeds for _, outlook in level if math.isinf(outlook.visible)]
    tested = sum(pair.outlook is not None for pair in results.pairs)
    power = [
        f"With {counted(tested, 'pair')}, no difference is significant below {counted(n, 'seed')}." for n in blind[:1]
    ]
    digits = digits_for(len(results.labels)) if level else 0
    return power + [
        f"{pair.better.variant} – {pair.worse.variant}: {_detectable(outlook, digits)}"
        f"a difference as large as measured {_required(outlook, len(results.labels))}."
        for pair, outlook in level
    ]


def _detectable(outlook: Outlook, digits: int) -> str:
    if math.isinf(outlook.visible):
        return ""
    return f"the smallest difference that this study could detect is {percent(outlook.visible, digits)}{SPACE}points; "


def _required(outlook: Outlook, images: int) -> str:
    if outlook.seeds is not None:
        return f"would need about {counted(outlook.seeds, 'seed')}"
    if outlook.images is not None:
        needed = counted(outlook.images, "test image")
        present = counted(images, "test image")
        return f"cannot be shown on {present} with any number of seeds and would need at least {needed}"
    return f"would need more than {counted(MOST_SEEDS, 'seed')}"


def remarks(results: StudyResults) -> list[str]:
    """List what qualifies the verdict, the gravest first."""
    lines = []
    total = len(results.finished) + len(results.failures)
    if results.failures:
        which = "; ".join(f"{run}: {failure}" for run, failure in results.failures)
        lines.append(
            f"{len(results.failures)} of {counted(total, 'run')} failed and are excluded from all averages ({which})."
        )
    if results.finished and results.tested_on_validation:
        lines.append(
            f"The {counted(len(results.labels), 'test image')} are also the validation images: best.ckpt, every tuned "
            "setting and the k of k-NN were selected on them. Hold out other images for unbiased numbers."
        )
    lines += _unpaired(results)
    for line in ("majority class", "k-NN on raw pixels"):
        below = [r for r in results.finished if line in results.lines_not_beaten(r.top1)]
        if below:
            lines.append(_below(line, below, results))
    undeclared = [difference.key for difference in results.differences if not difference.declared]
    if undeclared:
        keys = ", ".join(undeclared[:4]) + (f" and {len(undeclared) - 4} more" if len(undeclared) > 4 else "")
        lines.append(f"The variants differ in more than the study declares: {keys}.")
    for choice in results.choices:
        failed = [as_yaml(trial.value) for trial in choice.trials if trial.accuracy is None]
        if failed:
            lines.append(f"Tuning {choice.variant} failed with {_and(failed)}.")
        if choice.at_the_edge:
            lines.append(
                f"The best value for {choice.variant}, {as_yaml(choice.best.value)}, is at the edge of those tried."
            )
    mixed = [fact for fact in results.environment if not fact.same]
    if mixed:
        what = "; ".join(f"{fact.key}: {', '.join(fact.values)}" for fact in mixed)
        lines.append(f"The runs come from different environments ({what}).")
    lines += doubts(results.costs)
    lines += [f"{variant}: its cost could not be measured ({why})." for variant, why in results.cost_failures.items()]
    return lines


def _lead(pair: Pair, digits: int) -> str:
    return f"{pair.worse.variant} by {_gap(pair.comparison.difference, digits)}"


def _margin(pair: Pair, digits: int) -> str:
    return f"{_gap(pair.comparison.difference, digits)} over {pair.worse.variant}"


def _gap(difference: Interval, digits: int) -> str:
    points = percent(difference.mean, digits)
    return f"{points}{SPACE}points {bracket(difference, digits)}".rstrip()


def _seeds(pairs: Sequence[Pair]) -> str:
    counts = sorted({pair.comparison.seeds for pair in pairs})
    return (f"{counts[0]} to " if len(counts) > 1 else "") + counted(counts[-1], "seed")


def _too_few(pairs: Sequence[Pair]) -> str:
    """Return how many seeds a claim needs at least, if no pair has them."""
    least = [pair.outlook.least_seeds for pair in pairs if pair.outlook is not None]
    return f" (a claim needs {least[0]})" if least and all(pair.comparison.seeds < least[0] for pair in pairs) else ""


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _unpaired(results: StudyResults) -> list[str]:
    pairs: dict[tuple[int, ...], list[str]] = {}  # by the seeds that both have
    for a, b in combinations(results.ranking, 2):
        if a.outcomes.keys() != b.outcomes.keys():
            shared = tuple(sorted(a.outcomes.keys() & b.outcomes.keys()))
            pairs.setdefault(shared, []).append(f"{a.variant} – {b.variant}")
    return [f"Not all seeds are paired: {_and(names)} share {_named(seeds)}." for seeds, names in pairs.items()]


def _named(seeds: Sequence[int]) -> str:
    return f"only seed{'s' if len(seeds) > 1 else ''} {_and([str(s) for s in seeds])}" if seeds else "no seed"


def _below(line: str, below: Sequence[RunResult], results: StudyResults) -> str:
    value = results.baselines.majority if line == "majority class" else results.baselines.knn
    score = percent(value, digits_for(len(results.labels)))
    if len(below) == len(results.finished):
        return f"No run beats {line} ({score}{SPACE}%)."
    which = []
    for result in results.ranking:
        seeds = [run.run.seed for run in result.runs if run in below]
        if len(seeds) == len(result.runs):
            which.append(f"all of {result.variant}")
        elif seeds:
            which.append(f"{result.variant} with seed {_and([str(seed) for seed in seeds])}")
    share = f"{len(below)} of {counted(len(results.finished), 'run')}"
    return f"{share} {'does' if len(below) == 1 else 'do'} not beat {line} ({score}{SPACE}%): {_and(which)}."
