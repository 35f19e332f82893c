"""The interval of a mean difference over seeds and images at once: the crossed bootstrap, corrected (BCa).

D (S, N) holds the difference of two variants on each of N images (columns) with each of S seeds (rows). Every seed
meets the same images, so a replicate draws S rows and N columns with replacement and averages the cells where they
cross (Owen 2007, "The pigeonhole bootstrap"). Separate draws of images for each seed would act as if there were S times
as many.

Two errors are corrected before quantiles are taken. The replicates count the interaction of seed and image three times
(Owen, theorem 3) and the variance over a few seeds (S − 1)/S times; and a normal quantile is too short if the variance
is estimated from a few seeds. The replicates are therefore stretched about the mean to the unbiased standard error of
the two-way layout times t/z, Student's t with Satterthwaite's degrees of freedom. Their shape, which BCa uses, is kept.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from vitlab.studies.statistics.intervals import CONFIDENCE, Interval

RESAMPLES = 4_000


class Components(NamedTuple):
    """The variance of a cell of D by source: seed, image, and the rest, independent for each pair of them."""

    seed: float
    image: float
    rest: float
    freedom: float  # Satterthwaite's degrees of freedom of `error` at the size of D

    def error(self, seeds: float, images: float) -> float:
        """Return the standard error of the mean over this many seeds and images."""
        return math.sqrt(self.seed / seeds + self.image / images + self.rest / (seeds * images))


def components(d: np.ndarray) -> Components:
    """Estimate the components of D (S, N), S at least 2, from the mean squares of the two-way layout.

    With N = 1, a score of the whole test set, all variance is taken as the seeds'.
    """
    (seeds, images), mean = d.shape, d.mean()
    if images == 1:
        return Components(float(d.var(ddof=1)), 0.0, 0.0, seeds - 1)
    by_seed, by_image = d.mean(axis=1) - mean, d.mean(axis=0) - mean
    rest = d - mean - by_seed[:, None] - by_image
    freedom = np.array([seeds - 1, images - 1, (seeds - 1) * (images - 1)])
    sums = np.array([images * np.square(by_seed).sum(), seeds * np.square(by_image).sum(), np.square(rest).sum()])
    squares = sums / freedom
    parts = Components(
        seed=max(0.0, squares[0] - squares[2]) / images,
        image=max(0.0, squares[1] - squares[2]) / seeds,
        rest=float(squares[2]),
        freedom=math.inf,
    )
    uncertainty = float(np.sum(np.square(squares / d.size) / freedom))
    return parts._replace(freedom=parts.error(seeds, images) ** 4 / uncertainty) if uncertainty else parts


def crossed_bootstrap(d: np.ndarray, resamples: int = RESAMPLES) -> tuple[Interval, float]:
    """Return the mean of D (S, N) with its interval, and the two-sided p-value of a true mean of zero.

    The p-value is one minus the confidence of the interval that ends at zero.
    """
    mean, parts = float(d.mean()), components(d)
    replicates = crossed_replicates(d, resamples)
    spread = float(replicates.std())
    if spread == 0:  # every cell is the same
        return Interval(mean, mean, mean), 1.0 if mean == 0 else 1 / resamples
    quantile = (1 + CONFIDENCE) / 2
    stretch = parts.error(*d.shape) * stats.t.ppf(quantile, parts.freedom) / stats.norm.ppf(quantile) / spread
    replicates = mean + stretch * (replicates - mean)
    a = acceleration(d)
    return bca_interval(replicates, mean, a), bca_p(replicates, mean, a)


def crossed_replicates(d: np.ndarray, resamples: int) -> np.ndarray:
    """Return means of D (S, N) over rows and columns drawn with replacement, with a fixed random seed. (resamples,)"""
    rng = np.random.default_rng(0)
    seeds, images = d.shape
    # Few columns are distinct, so draw how often each kind occurs rather than N columns.
    kinds, counts = np.unique(d, axis=1, return_counts=True)  # (S, K), (K,)
    columns = rng.multinomial(images, counts / images, size=resamples)  # (R, K)
    rows = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)  # (R, S)
    return np.asarray((rows * (columns @ kinds.T.astype(float))).sum(axis=1) / d.size)  # floats: BLAS


def acceleration(d: np.ndarray) -> float:
    """Return BCa's a: a sixth of the skewness of the jackknife's influence values, over seeds and over images.

        a = Σ u³ / (6 (Σ u²)^1.5),   u: (row mean − mean) / S for each seed, (column mean − mean) / N for each image

    as for a statistic of two independent samples (Efron and Tibshirani 1993, 14.15, and `scipy.stats.bootstrap`).
    Leaving out is linear for a mean, so u needs no loop.
    """
    seeds, images = d.shape
    mean = d.mean()
    u = np.concatenate([(d.mean(axis=1) - mean) / seeds, (d.mean(axis=0) - mean) / images])
    squares = float(np.square(u).sum())
    return float((u**3).sum()) / (6 * squares**1.5) if squares else 0.0


def bca_interval(replicates: np.ndarray, estimate: float, a: float) -> Interval:
    """Return the bias-corrected and accelerated interval (Efron 1987)."""
    z0 = _score(replicates, estimate)
    z = z0 + stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(replicates, stats.norm.cdf(z0 + z / (1 - a * z)))
    return Interval(estimate, float(low), float(high))


def bca_p(replicates: np.ndarray, estimate: float, a: float) -> float:
    """Return 1 − the confidence at which the BCa interval would end at zero; the inverse of `bca_interval`."""
    z0 = _score(replicates, estimate)
    w = _score(replicates, 0.0) - z0
    return float(2 * stats.norm.sf(abs(w / (1 + a * w) - z0)))


def _score(replicates: np.ndarray, value: float) -> float:
    """Return the normal score of the fraction of replicates below a value, ties by half; always finite."""
    share = (np.mean(replicates < value) + np.mean(replicates <= value)) / 2
    least = 0.5 / len(replicates)
    return float(stats.norm.ppf(np.clip(share, least, 1 - least)))
