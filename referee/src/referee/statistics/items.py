"""Two trained models on the same items: which is better on such items, whatever another training would give.

    d = mean_i(a_i − b_i),   I = var_i(a_i − b_i) / N

The interval is d ± z √I. p is McNemar's exact one where an outcome is right or wrong, else Student's t over items. Of
two fractions of N items whose outcomes are not known item by item, I is that of independent models, which two models
that fail on the same items stay below: p_a (1 − p_a)/N + p_b (1 − p_b)/N.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from referee.statistics.comparison import INDEPENDENT, LEVEL, Dependence, Difference, p_value

WITHOUT_SEEDS = 1e9  # degrees of freedom of a variance over seeds that is 0


class McNemar(NamedTuple):
    """Two models on the same items: items that only one of them gets right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Compare two models on the same items by McNemar's exact test.

    If they are equally good, an item that exactly one of them gets right is as likely the one's as the other's. The
    test is about these two trained models only: several seeds on the same items must not be pooled.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def over_items(a: np.ndarray, b: np.ndarray, pairs: int, dependence: Dependence = INDEPENDENT) -> Difference:
    """Return a minus b for outcomes of the same items, (N,) bool or float, higher being better."""
    apart = a.astype(float) - b
    groups = dependence.groups
    variance = dependence.variance(apart) / len(apart) if len(apart) > 1 else math.nan
    if a.dtype == b.dtype == bool and not apart.any():
        variance = dependence.of_one(len(apart)) / len(apart)
    if a.dtype == b.dtype == bool and groups is None:
        p = mcnemar(a, b).p
    else:
        freedom = (len(apart) if groups is None else int(groups.max()) + 1) - 1
        p = float(2 * stats.t.sf(abs(apart.mean()) / math.sqrt(variance), freedom)) if variance else 1.0
    return Difference(float(apart.mean()), 0.0, variance, WITHOUT_SEEDS, pairs, LEVEL, p=p)


def over_fractions(a: float, b: float, items: int, pairs: int) -> Difference:
    """Return a minus b for two fractions of the same number of items."""
    variance = (a * (1 - a) + b * (1 - b)) / items
    return Difference(a - b, 0.0, variance, WITHOUT_SEEDS, pairs, LEVEL, p=p_value(a - b, 0.0, variance, WITHOUT_SEEDS))
