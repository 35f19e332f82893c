"""The best of k random trials, as a curve over k, and when one variant's is better than another's.

The n trials of a variant are draws from its search space, with validation scores y₁ ≤ … ≤ y_n. With k trials one gets
the largest of k such draws.

    curve       mean over all subsets of k trials, without bias: Σ_i y_i · C(i−1, k−1) / C(n, k). The test score of the
                trial that the subset chooses by its validation score has the same weights.
    band        of the median: F^k = 1/2 where F(y) = 2^(−1/k). F(y_i) has a Beta(i, n − i + 1) distribution, so an
                equal-tailed interval of each, at the level at which all n hold together in 95 % of searches, is a band
                for F and for all k at once (Lourie, Cho and He 2023, arXiv 2311.09480). It is exact for any F.
    difference  trials of two variants with the same settings are pairs. If the variants are equal, their scores may be
                exchanged in every pair: a permutation test, whose largest statistic over k holds for all k at once.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from referee.statistics.comparison import LEVEL
from scipy import optimize, special, stats

Scores = Sequence[float] | np.ndarray
EXCHANGES = 4_000  # drawn for a permutation test


class Curve(NamedTuple):
    """By number of trials k = 1, …, n: each (n,)."""

    mean: np.ndarray
    low: np.ndarray  # of the median
    high: np.ndarray
    test: np.ndarray  # mean score, on the test images, of the trial that validation chooses


def weights(n: int) -> np.ndarray:
    """Return (n, n): by k − 1, the chance that the i-th smallest of n is the largest of k of them."""
    i = np.arange(1, n + 1)
    return np.array([special.comb(i - 1, k - 1) / math.comb(n, k) for k in range(1, n + 1)])


def tuning_curve(validation: Scores, test: Scores, worst: float = 0.0, best: float = 1.0) -> Curve:
    """Return the curve of a variant from its trials' scores, the higher the better, between `worst` and `best`."""
    n = len(validation)
    order = n - 1 - np.argsort(validation[::-1], kind="stable")  # the first of equal ones counts as the best
    scores = np.asarray(validation, dtype=float)[order]
    w = weights(n)
    low, high = order_bands(n)
    q = 0.5 ** (1 / np.arange(1, n + 1))
    # F is at most `high` of the next trial below it, and at least `low` of the last trial above.
    steps = np.concatenate([[worst], scores, [best]])
    lower = steps[np.searchsorted(high, q)]
    upper = steps[np.searchsorted(low, q) + 1]
    return Curve(w @ scores, lower, upper, w @ np.asarray(test, dtype=float)[order])


@cache
def order_bands(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends between which F(y_i) lies for all of n trials at once, each (n,)."""
    i = np.arange(1, n + 1)

    def ends(level: float) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(stats.beta.ppf(level / 2, i, n + 1 - i)), np.asarray(stats.beta.isf(level / 2, i, n + 1 - i))

    level = optimize.brentq(lambda a: held(*ends(a)) - (1 - LEVEL), LEVEL / (2 * n), LEVEL)
    return ends(level)


def held(low: np.ndarray, high: np.ndarray) -> float:
    """Return the chance that all of n sorted uniform draws lie between their ends: by the number below t."""
    n = len(low)
    chance, at = np.zeros(n + 1), 0.0
    chance[0] = 1.0  # of c draws below `at`
    draws = np.arange(n + 1)
    for t in np.unique(np.concatenate([low, high])):
        share = (t - at) / (1 - at)
        moved = stats.binom.pmf(draws[None, :] - draws[:, None], n - draws[:, None], share)
        chance = chance @ np.where(draws[None, :] >= draws[:, None], moved, 0.0)
        chance[draws < (high <= t).sum()] = 0.0  # too few below t: one lies above its end
        chance[draws > (low < t).sum()] = 0.0  # too many: one lies below its end
        at = float(t)
    return float(chance.sum())


class Lead(NamedTuple):
    """Variant a against variant b, by number of trials."""

    mean: np.ndarray  # (n,), of a minus b
    p: np.ndarray  # (n,), adjusted for all numbers of trials


def lead(a: Scores, b: Scores) -> Lead:
    """Compare two variants' curves by the scores of as many trials, of the same settings; higher is better."""
    x, y, n = np.asarray(a, dtype=float), np.asarray(b, dtype=float), len(a)
    w, rng = weights(n), np.random.default_rng(0)
    gap = w @ np.sort(x) - w @ np.sort(y)
    exchanged = rng.random((EXCHANGES, n)) < 0.5
    first, second = np.where(exchanged, y, x), np.where(exchanged, x, y)
    drawn = (np.sort(first, axis=1) - np.sort(second, axis=1)) @ w.T  # (EXCHANGES, n)
    spread = drawn.std(axis=0)
    spread[spread == 0] = 1.0
    largest = np.abs(drawn / spread).max(axis=1)
    p = (1 + (largest[:, None] >= np.abs(gap / spread) - 1e-12).sum(axis=0)) / (1 + EXCHANGES)
    return Lead(gap, p)


def sensitivity(scores: Scores, within: float) -> float:
    """Return the fraction of the search space whose score is within a difference of the best trial's."""
    values = np.asarray(scores, dtype=float)
    return float((values >= values.max() - within).mean())
