"""The conclusion of a study in words."""

import math
from collections.abc import Sequence
from itertools import combinations

from vitlab.evaluation.cost import doubts
from vitlab.studies.format import SPACE, as_yaml, counted, digits_for, percent
from vitlab.studies.results import Pair, RunResult, StudyResults
from vitlab.studies.statistics.power import MOST_SEEDS, Outlook


def verdict(results: StudyResults) -> str:
    """Summarize in one sentence what the study shows."""
    ranking, metric = results.ranking, results.metric
    if not ranking:
        return "No run finished, so there is nothing to compare."
    best = ranking[0]
    if len(ranking) == 1:
        return f"Only {best.variant} has finished runs, so there is nothing to compare."
    scored = f"{best.variant} scored {'highest' if metric.mode == 'max' else 'lowest'}"
    against = [pair for pair in results.pairs if pair.better is best]
    if not against:
        return f"{scored}, but shares no seed with the others; nothing can be concluded."
    if all(pair.comparison.seeds == 1 for pair in against):
        score = metric.text(best.score.mean, results.digits)
        shown = f"{score}{SPACE}%" if metric.is_accuracy else f"{metric.name} {score}"
        return f"{scored} ({shown}), but a single seed cannot distinguish a difference from chance."

    def gap(pair: Pair) -> str:
        difference, digits = pair.comparison.difference, results.digits
        return f"{metric.difference(difference.mean, digits)} {metric.bracket(difference, digits)}".rstrip()

    ahead = [pair for pair in against if pair.separable]
    level = [pair for pair in against if not pair.separable]
    if not ahead:
        highest, over = ("highest", "over") if metric.mode == "max" else ("lowest", "below")
        leads = _and([f"{gap(pair)} {over} {pair.worse.variant}" for pair in level])
        return f"Not separable at {_seeds(level)}{_too_few(level)}: {best.variant} has the {highest} mean, {leads}."
    lead = f"{best.variant} is better than {_and([f'{pair.worse.variant} by {gap(pair)}' for pair in ahead])}"
    if not level:
        return f"{lead}."
    rest = _and([f"{pair.worse.variant} ({gap(pair)})" for pair in level])
    return f"{lead}, but not separable from {rest} at {_seeds(level)}."


def outlooks(results: StudyResults) -> list[str]:
    """List what the study could detect, for each variant that is not separable from the first of the ranking."""
    level = [
        (pair, pair.outlook)
        for pair in results.pairs
        if pair.better is results.ranking[0] and pair.outlook is not None and not pair.separable
    ]
    tested = counted(sum(pair.outlook is not None for pair in results.pairs), "pair")
    blind = [outlook.least_seeds for _, outlook in level if math.isinf(outlook.visible)]
    lines = [f"With {tested}, no difference is significant below {counted(n, 'seed')}." for n in blind[:1]]
    for pair, outlook in level:
        detectable = ""
        if math.isfinite(outlook.visible):
            least = results.metric.difference(outlook.visible, results.digits)
            detectable = f"the smallest difference that this study could detect is {least}; "
        lines.append(
            f"{pair.better.variant} – {pair.worse.variant}: {detectable}"
            f"a difference as large as measured {_required(outlook, len(results.labels))}."
        )
    return lines


def _required(outlook: Outlook, images: int) -> str:
    if outlook.seeds is not None:
        return f"would need about {counted(outlook.seeds, 'seed')}"
    if outlook.images is not None:
        needed, present = counted(outlook.images, "test image"), counted(images, "test image")
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
        chosen = (
            "best.ckpt, every tuned setting and the k of k-NN"
            if results.baselines
            else "best.ckpt and every tuned setting"
        )
        lines.append(
            f"The {counted(len(results.labels), 'test image')} are also the validation images: {chosen} were selected "
            "on them. Hold out other images for unbiased numbers."
        )
    lines += _unpaired(results)
    lines += _below_baselines(results)
    undeclared = [difference.key for difference in results.differences if not difference.declared]
    if undeclared:
        keys = ", ".join(undeclared[:4]) + (f" and {len(undeclared) - 4} more" if len(undeclared) > 4 else "")
        lines.append(f"The variants differ in more than the study declares: {keys}.")
    for choice in results.choices:
        failed = [as_yaml(trial.value) for trial in choice.trials if trial.score is None]
        if failed:
            lines.append(f"Tuning {choice.variant} failed with {_and(failed)}.")
        if choice.at_the_edge:
            lines.append(
                f"The best value for {choice.variant}, {as_yaml(choice.best.value)}, is at the edge of those tried."
            )
    mixed = [f"{key}: {', '.join(values)}" for key, values in results.environment.items() if len(values) > 1]
    if mixed:
        lines.append(f"The runs come from different environments ({'; '.join(mixed)}).")
    lines += doubts(results.costs)
    lines += [f"{variant}: its cost could not be measured ({why})." for variant, why in results.cost_failures.items()]
    return lines


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

    def named(seeds: Sequence[int]) -> str:
        return f"only seed{'s' if len(seeds) > 1 else ''} {_and([str(s) for s in seeds])}" if seeds else "no seed"

    return [f"Not all seeds are paired: {_and(names)} share {named(seeds)}." for seeds, names in pairs.items()]


def _below_baselines(results: StudyResults) -> list[str]:
    lines = []
    for line, value in results.baselines.lines.items() if results.baselines else ():
        below = [result for result in results.finished if line in results.lines_not_beaten(result.score)]
        if not below:
            continue
        score = f"{percent(value, digits_for(len(results.labels)))}{SPACE}%"
        if len(below) == len(results.finished):
            lines.append(f"No run beats {line} ({score}).")
            continue
        share = f"{len(below)} of {counted(len(results.finished), 'run')} {'does' if len(below) == 1 else 'do'}"
        lines.append(f"{share} not beat {line} ({score}): {_and(_who(below, results))}.")
    return lines


def _who(below: Sequence[RunResult], results: StudyResults) -> list[str]:
    names = []
    for result in results.ranking:
        seeds = [run.run.seed for run in result.runs if run in below]
        if len(seeds) == len(result.runs):
            names.append(f"all of {result.variant}")
        elif seeds:
            names.append(f"{result.variant} with seed {_and([str(seed) for seed in seeds])}")
    return names
