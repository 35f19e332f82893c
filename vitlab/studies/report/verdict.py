"""The conclusion of a study in words."""

import math
from collections.abc import Sequence

from vitlab.evaluation.cost import doubts
from vitlab.studies.format import SPACE, as_yaml, counted, digits_for, percent
from vitlab.studies.results import Pair, RunResult, StudyResults
from vitlab.studies.statistics.power import MOST_SEEDS, Need, detectable, need
from vitlab.studies.statistics.sequential import error_of_extending


def verdict(results: StudyResults) -> str:
    """Summarize in one sentence what the study shows."""
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
    lines += _below_baselines(results)
    lines += _extension(results)
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


def _extension(results: StudyResults) -> list[str]:
    """State what it costs that seeds were added after a look at the results which was not planned."""
    if not results.earlier_plans:
        return []
    counts = [*results.earlier_plans, len(results.study.seeds)]
    numbers = f"{', '.join(map(str, counts[:-1]))} to {counted(counts[-1], 'seed')}"
    if results.study.looks:
        return [
            f"The study was extended from {numbers} after it had ended, so more than 5{SPACE}% of claims are false."
        ]
    error = error_of_extending(tuple(counts), results.study.test)
    return [
        f"The list was extended from {numbers} after a look at the results, so each pair is tested at the level "
        f"{results.level:.3f} instead of 0.05; even so, chance alone leads to a claim in {100 * error:.1f}{SPACE}% of "
        "such studies. `seeds: {from: 4, to: …}` plans the looks."
    ]


def _seeds(results: StudyResults) -> str:
    counts = sorted({len(result.runs) for result in results.ranking})
    return (f"{counts[0]} to " if len(counts) > 1 else "") + f"{counted(counts[-1], 'seed')} each"


def _and(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


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
