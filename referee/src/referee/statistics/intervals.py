"""Confidence intervals of one quantity; see `contrast` for differences over seeds and images."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and its confidence interval; `low` and `high` are nan for a single value."""

    mean: float
    low: float
    high: float

    def within(self, low: float, high: float) -> "Interval":
        """Clip to possible values, which Student's t exceeds with two seeds."""
        return Interval(self.mean, max(self.low, low), min(self.high, high))


def t_interval(values: Sequence[float] | np.ndarray, step: float = 0.0) -> Interval:
    """Return mean ± t · s/√n of a number per seed, Student's t with n − 1 degrees of freedom; `step` as in `spread`."""
    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * spread(values, step) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def spread(values: np.ndarray, step: float = 0.0) -> float:
    """Return the standard deviation, but at least step/√12, that of rounding to steps: 1/N for accuracies.

    Two or three seeds sometimes agree to the last image, which does not show a deviation of zero.
    """
    return max(float(np.std(values, ddof=1)), step / math.sqrt(12))


def sampling_margin(accuracy: float, images: int) -> float:
    """Return the half-width of Wilson's interval: how far another test set of this size would move an accuracy."""
    interval = stats.binomtest(round(accuracy * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.high - interval.low) / 2
