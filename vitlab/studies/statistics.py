"""How sure a difference between two variants is. Pure functions on arrays; imports nothing of vitlab.

A comparison has two sources of chance, and they answer two questions:

- training (initialisation, order, augmentation): would other seeds give the same order? Variants are paired by seed,
  which fixes order and augmentation draws, and the differences go through a paired t-test over seeds.
- the test set: would other images give the same order? The outcomes of both variants on each image, averaged over
  seeds, are paired by image. With a few hundred images this is often the larger part (Jordan 2023, arXiv 2304.01910).

A difference is called separable only if it survives both.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A mean and its confidence interval; `low` and `high` are nan where a single value allows none."""

    mean: float
    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Say whether `value` lies outside; never where there is no interval."""
        return value < self.low or value > self.high

    def within(self, low: float, high: float) -> "Interval":
        """Return the part of the interval that is possible; with two seeds Student's t reaches beyond it."""
        return Interval(self.mean, max(self.low, low), min(self.high, high))


class Paired(NamedTuple):
    """A paired comparison: the mean difference with its interval, and the two-sided p-value of no difference."""

    difference: Interval
    p: float  # nan where a single pair allows none
    n: int  # number of pairs


class McNemar(NamedTuple):
    """Two models on the same images: how many only one of them got right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


class Comparison(NamedTuple):
    """Variant a against variant b, on the seeds that both have."""

    seeds: Paired
    images: Paired
    mcnemar: dict[int, McNemar]  # by seed

    @property
    def p(self) -> float:
        """The larger of the two p-values: small only if the difference survives other seeds *and* other images.

        This is the intersection-union test (Berger 1982): its level is that of each part, no correction needed.
        """
        return max(self.seeds.p, self.images.p) if self.seeds.n > 1 else math.nan


def t_interval(values: Sequence[float] | np.ndarray, step: float = 0.0) -> Interval:
    """Return mean ± t · s/√n, Student's t with n − 1 degrees of freedom.

    Args:
        values: One number per seed or per image.
        step: What the values are multiples of, as accuracies are of 1/N. Two or three seeds agree to the last image
            now and then; that is no proof of zero spread, so s is at least step/√12, the spread of a rounding error.
    """
    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * _standard_error(values, step))
    return Interval(mean, mean - half, mean + half)


def paired_t(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, step: float = 0.0) -> Paired:
    """Compare paired values by the t-test on a − b; `step` as in `t_interval`."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    interval = t_interval(difference, step)
    n, error = len(difference), _standard_error(difference, step)
    if n < 2:
        p = math.nan
    elif error == 0:
        p = 1.0 if interval.mean == 0 else 0.0
    else:
        p = float(2 * stats.t.sf(abs(interval.mean) / error, n - 1))
    return Paired(interval, p, n)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Compare two models on the same images by McNemar's exact test.

    Among the images that exactly one of them got right, either is as likely to be the one if they are equally good.
    It speaks of these two trained models only: outcomes of several seeds on the same images must not be pooled here.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def compare(correct_a: dict[int, np.ndarray], correct_b: dict[int, np.ndarray]) -> Comparison | None:
    """Compare two variants by their outcomes per seed, each (N,) bool on the same N images.

    Only seeds that both have are used; None where there is none.
    """
    shared = sorted(correct_a.keys() & correct_b.keys())
    if not shared:
        return None
    a = np.stack([correct_a[seed] for seed in shared])  # (S, N)
    b = np.stack([correct_b[seed] for seed in shared])
    over_seeds = paired_t(a.mean(axis=1), b.mean(axis=1), step=1 / a.shape[1])
    return Comparison(
        seeds=over_seeds._replace(difference=over_seeds.difference.within(-1, 1)),
        images=paired_t(a.mean(axis=0), b.mean(axis=0)),
        mcnemar={seed: mcnemar(correct_a[seed], correct_b[seed]) for seed in shared},
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests for their number (Holm 1979); nan stays nan and counts as no test."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)  # nan last
    m = int(np.isfinite(p).sum())
    adjusted = np.full(len(p), math.nan)
    adjusted[order[:m]] = np.minimum(np.maximum.accumulate(p[order[:m]] * np.arange(m, 0, -1)), 1)
    return adjusted.tolist()


def sampling_margin(accuracy: float, images: int) -> float:
    """Return the half-width of Wilson's interval: how far another test set of this size would move an accuracy."""
    interval = stats.binomtest(round(accuracy * images), images).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.high - interval.low) / 2


def _standard_error(values: np.ndarray, step: float) -> float:
    if len(values) < 2:
        return math.nan
    return max(float(np.std(values, ddof=1)), step / math.sqrt(12)) / math.sqrt(len(values))
