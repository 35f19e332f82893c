"""Which variants do not beat a baseline, or their own features before training, beyond chance.

Three sources of chance: the seeds of the variant, the test images of its accuracy, and those of the baseline's. A
variant and a baseline find the same images hard, so that adding the last two is on the safe side.
"""

import numpy as np
from referee.formats import SPACE, joined, percent
from referee.statistics.contrast import LEVEL, half_width, spread, t_interval

from vitlab.studies.results.run import VariantResult
from vitlab.studies.results.table import StudyResults


def not_beyond_baselines(results: StudyResults) -> list[str]:
    """Name, for each baseline and for the start of the training, the variants whose lead over it can be chance."""
    lines, digits = [], results.verdict.digits
    known_lines = results.baselines.lines.items() if results.baselines else ()
    for line, value in sorted(known_lines, key=lambda each: -each[1]):  # what beats the best beats all
        below = [result for result in results.ranking if not _beats(result, value, results)]
        if not below:
            continue
        at = f"{line} ({percent(value, digits)}{SPACE}%)"
        known = f"{at} beyond chance"
        scores = [(result.variant, percent(result.score.mean, digits)) for result in below]
        if len(below) == len(results.ranking) > 1:
            beats = f"beats {known}" if results.ranking[0].score.mean > value else f"reaches {at}"
            lines.append(f"No variant {beats}: {', '.join(map(' '.join, scores))}.")
        else:
            who = [f"{variant} ({score}{SPACE}%)" for variant, score in scores]
            verb = "does" if len(who) == 1 else "do"
            lines.append(f"{joined(who)} {verb} not beat {known}.")
    if vain := [result.variant for result in results.ranking if _in_vain(result)]:
        lines.append(f"The training of {joined(vain)} improved no features beyond chance.")
    return lines


def design_effect(rate: np.ndarray, groups: np.ndarray | None) -> float:
    """Return by how much the variance of a mean over images (N,) grows, as those of a group are alike; 1 or more."""
    if groups is None or not rate.var():
        return 1.0
    sums = np.bincount(groups, rate - rate.mean())
    return max(1.0, float(np.square(sums).sum() / (len(rate) * rate.var())))


def _in_vain(result: VariantResult) -> bool:
    """Whether its features before training may be as good, seed by seed."""
    gains = [run.score - run.untrained for run in result.runs if run.untrained is not None]
    if len(gains) < 2:
        return any(gain <= 0 for gain in gains)
    return not t_interval(gains).low > 0


def _beats(result: VariantResult, line: float, results: StudyResults) -> bool:
    """Whether the 95 % interval of a variant's lead over a baseline lies above zero."""
    assert results.baselines is not None
    N, S = len(results.labels), len(result.runs)
    several = [other for other in results.ranking if len(other.runs) > 1]
    variances = [spread(np.array([run.score for run in other.runs]), 1 / N) ** 2 for other in several]
    freedom = [len(other.runs) - 1 for other in several]
    seeds = float(np.average(variances, weights=freedom)) / S if several else 0.0
    rate = np.mean([run.correct for run in result.runs], axis=0)  # of being right, (N,)
    images = float(rate.var()) / N + line * (1 - line) / results.baselines.test_images
    images *= design_effect(rate, results.outcomes.groups)
    return result.score.mean - line > half_width(LEVEL, seeds, images, sum(freedom) or 1)
