"""Significance of the difference between two variants. Pure functions on arrays.

A comparison has two sources of randomness. Training: would other seeds (initialization, order, augmentation) give the
same ranking? The test set: would other images? With a few hundred images the latter is often larger (Jordan 2023, arXiv
2304.01910). Variants are paired in both: equal seeds mean equal order and augmentation draws, and the images are the
same. Three tests are made, and a difference counts only if it passes all of them:

- sign flips over seeds: if a and b are equally good, a − b is as likely as b − a with each seed. Exact for any
  distribution and few seeds; but its p-value is at least 2/2ⁿ, so fewer than 6 seeds never reach 5 %.
- sign flips over images, exact if only a few images distinguish a from b; with one seed it would be McNemar's test.
- the crossed bootstrap over seeds and images together (`bootstrap`), which also gives the interval. The flips keep the
  other source fixed, so they can be certain of what a small test set happens to favor.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from vitlab.studies.statistics.bootstrap import RESAMPLES, crossed_bootstrap
from vitlab.studies.statistics.intervals import Interval, spread

FLIPS = 2**12  # all of them for up to 12 seeds or images, else random ones
MANY = 50  # differences: their mean under sign flips is normal
SEEDS_FOR_EFFECT = 6  # with fewer, the deviation between seeds is a guess and nothing is significant (2/2⁶ < 5 %)


class McNemar(NamedTuple):
    """Two models on the same images: images that only one of them gets right, and the exact two-sided p-value."""

    only_a: int
    only_b: int
    p: float


class Comparison(NamedTuple):
    """Variant a against variant b on their shared seeds; a single seed leaves nan."""

    difference: Interval  # of accuracy, over seeds and images
    p_seeds: float  # by sign flips
    p_images: float  # by sign flips
    p_both: float  # by the bootstrap
    effect: float  # Cohen's d of the paired differences over seeds; nan below SEEDS_FOR_EFFECT
    outperforms: float  # fraction of seeds with which a is better, ties by half (Bouthillier et al. 2021)
    mcnemar: dict[int, McNemar]  # by seed
    cells: np.ndarray  # (S, N): 1 where only a is right, −1 where only b is; (S, 1) differences of scores

    @property
    def seeds(self) -> int:
        """Number of shared seeds."""
        return len(self.cells)

    @property
    def p(self) -> float:
        """The largest p-value, small only if all tests find a difference; nan with a single seed."""
        return float(np.nanmax([self.p_seeds, self.p_images, self.p_both])) if self.seeds > 1 else math.nan


def compare(
    correct_a: dict[int, np.ndarray], correct_b: dict[int, np.ndarray], resamples: int = RESAMPLES
) -> Comparison | None:
    """Compare two variants by their correct predictions per seed, each (N,) bool on the same N images.

    Of a metric that is known of the whole test set only, pass (1,) float, higher being better: then seeds are the only
    source of randomness. Only shared seeds are used; None if there are none.
    """
    shared = sorted(correct_a.keys() & correct_b.keys())
    if not shared:
        return None
    a = np.stack([correct_a[seed] for seed in shared])  # (S, N)
    b = np.stack([correct_b[seed] for seed in shared])
    by_image = a.dtype == bool
    cells = a.astype(np.int8) - b.astype(np.int8) if by_image else a - b
    by_seed = cells.mean(axis=1)
    enough = len(shared) >= SEEDS_FOR_EFFECT
    deviation = spread(by_seed, by_image / cells.shape[1]) if enough else math.nan
    single = Interval(float(by_seed.mean()), math.nan, math.nan), math.nan
    interval, p = crossed_bootstrap(cells, resamples) if len(shared) > 1 else single
    return Comparison(
        difference=interval,
        p_seeds=sign_flip_p(by_seed),
        p_images=sign_flip_p(cells.mean(axis=0)) if by_image else math.nan,
        p_both=p,
        effect=float(by_seed.mean()) / deviation if enough and deviation else math.nan,
        outperforms=float(np.mean((np.sign(by_seed) + 1) / 2)),
        mcnemar={seed: mcnemar(correct_a[seed], correct_b[seed]) for seed in shared if by_image},
        cells=cells,
    )


def sign_flip_p(differences: np.ndarray) -> float:
    """Return the two-sided p-value of paired differences (n,): the fraction of sign flips with as large a mean."""
    differences = differences[differences != 0]  # nothing to flip
    if len(differences) < 2:
        return 1.0
    if len(differences) > MANY:
        return float(2 * stats.norm.sf(abs(differences.sum()) / np.sqrt(np.square(differences).sum())))
    test = stats.permutation_test(
        (differences,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=FLIPS,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def mcnemar(correct_a: np.ndarray, correct_b: np.ndarray) -> McNemar:
    """Compare two models on the same images by McNemar's exact test.

    If they are equally good, an image that exactly one of them gets right is as likely the one's as the other's. The
    test is about these two trained models only: several seeds on the same images must not be pooled.
    """
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return McNemar(only_a, only_b, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests for their number (Holm 1979); nan stays nan and is not counted."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)  # nan last
    m = int(np.isfinite(p).sum())
    adjusted = np.full(len(p), math.nan)
    adjusted[order[:m]] = np.minimum(np.maximum.accumulate(p[order[:m]] * np.arange(m, 0, -1)), 1)
    return adjusted.tolist()
