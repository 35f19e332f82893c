"""Which tuned value each variant takes: near-ties are ties, and variants take as few different values as ties allow.

The best of M noisy scores is partly the luckiest. Where each of two equal variants takes its own, they often train with
different values, and the difference of the values passes for one of the variants. Scores of M values × T tuning seeds
for each of K variants have

    s²    = mean over variants and values of the variance over tuning seeds (T − 1 degrees of freedom each)
    error = √(2 s²/T)      the standard error of the difference of two values of a variant

Values within one error of a variant's best tie with it. The value that ties for the most variants, and of those the
best in sum, is taken by all of them; the remaining variants repeat this. A variant whose best value ties with no other
variant's takes its own best.

With one tuning seed the variance of an accuracy p on n validation images takes the place of s²: p (1 − p)/n.
"""

import math

import numpy as np


def error_of_difference(scores: np.ndarray, images: int | None = None) -> float:
    """Return the standard error of the difference of two values.

    Args:
        scores: (K, M, T), nan where a run failed.
        images: Number of validation images if the scores are accuracies; None: one seed does not show the noise.
    """
    complete = scores[np.isfinite(scores).all(axis=2)]  # (C, T)
    if not len(complete):
        return 0.0
    seeds = scores.shape[2]
    if seeds > 1:
        return math.sqrt(2 * float(complete.var(axis=1, ddof=1).mean()) / seeds)
    return math.sqrt(2 * float((complete * (1 - complete)).mean()) / images) if images else 0.0


def choose(means: np.ndarray, error: float) -> list[int]:
    """Return the index of the value that each variant takes.

    Args:
        means: (K, M), the mean score of each value, higher being better; nan where a run failed, not all of a variant.
        error: Values that are worse than the best by no more than this tie with it.
    """
    best = np.nanmax(means, axis=1, keepdims=True)
    ties = means >= best - error - 1e-12 * np.abs(best)  # (K, M); False for nan
    chosen = np.full(len(means), -1)
    while (waiting := chosen < 0).any():
        counts = ties[waiting].sum(axis=0)
        sums = np.where(ties[waiting], means[waiting], 0).sum(axis=0)
        value = int(np.argmax(np.where(counts == counts.max(), sums, -np.inf)))
        chosen[waiting & ties[:, value]] = value
    return chosen.tolist()
