"""Exact tests: all regroupings of the runs of two variants, and McNemar's of two trained models on the same items.

Where two variants are equal in distribution over seeds, the labels of the runs are arbitrary, so the difference D of
the means is one of those that all regroupings of the runs give. Test images are a second source of variance, I, which
no regrouping shows. As in `contrast`, squares add up: p is the least α with

    fraction of regroupings with |D*| ≥ √(D² − z²_{1−α/2} · I)  ≤  α.

Four seeds of two variants have 70 regroupings, so p is at least 2/70.
"""

import math
from collections.abc import Callable
from functools import cache
from itertools import combinations

import numpy as np
from scipy import special

MOST_REGROUPINGS = 20_000  # beyond which as many are drawn, with a fixed generator
ROUNDING = 1e-9


def p_value(a: np.ndarray, b: np.ndarray, images: float) -> float:
    """Return the two-sided p-value of equal means, of scores by seed, (S_a,) and (S_b,), and of the variance I."""
    scores = np.concatenate([a, b])
    sums = _regroupings(len(a), len(b)) @ scores
    sizes = np.sort(np.abs(sums / len(a) - (scores.sum() - sums) / len(b)))
    actual = float(abs(a.mean() - b.mean()))

    def share(alpha: float) -> float:
        rest = math.sqrt(max(0.0, actual**2 - float(special.ndtri(alpha / 2)) ** 2 * images))
        return 1 - float(np.searchsorted(sizes, rest - ROUNDING)) / len(sizes)

    # The share falls with α, in steps.
    return _border(lambda alpha: share(alpha) <= alpha, 0.0, 1.0) if images else share(1.0)


def interval(a: np.ndarray, b: np.ndarray, images: float, alpha: float) -> tuple[float, float]:
    """Return the range of differences that the test does not reject, nan if it rejects none."""
    mean = float(a.mean() - b.mean())

    def rejects(difference: float) -> bool:
        return p_value(a - difference, b, images) <= alpha

    far = 100 * (float(np.ptp(a) + np.ptp(b)) + math.sqrt(images) + ROUNDING)
    if not rejects(mean - far) or not rejects(mean + far):
        return math.nan, math.nan
    return _border(rejects, mean, mean - far), _border(rejects, mean, mean + far)


@cache
def _regroupings(size_a: int, size_b: int) -> np.ndarray:
    """Return which runs each regrouping gives to the first variant, (R, S_a + S_b) bool, the actual one first."""
    runs = size_a + size_b
    if math.comb(runs, size_a) <= MOST_REGROUPINGS:
        chosen = np.array(list(combinations(range(runs), size_a)))
    else:
        ranks = np.random.default_rng(0).random((MOST_REGROUPINGS, runs)).argsort(axis=1)
        chosen = np.concatenate([np.arange(runs)[None], ranks])[:, :size_a]
    groups = np.zeros((len(chosen), runs), dtype=bool)
    np.put_along_axis(groups, chosen, True, axis=1)
    return groups


def _border(rejects: Callable[[float], bool], inside: float, outside: float) -> float:
    for _ in range(30):
        middle = (inside + outside) / 2
        inside, outside = (inside, middle) if rejects(middle) else (middle, outside)
    return outside


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> float:
    """Return the exact two-sided p-value that two trained models, not several seeds, are right on as many items."""
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))  # both tails are alike
