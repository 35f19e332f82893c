"""Which variants of a study differ: seeds and images as two sources of variance, pooled over all variants, unpaired.

For variant v with S_v seeds on the same N images: m_vs the accuracy of a run, ȳ_vi the mean over seeds of "image i is
classified correctly".

    s_v² = max(var_s(m_vs), (1/N)²/12)                            variance over seeds, at least that of rounding;
                                                                  of scores the least gap of two instead of 1/N
    s_p² = Σ_v (S_v − 1) s_v² / ν,   ν = Σ_v (S_v − 1)            pooled over all variants
    w_v  = mean_i[var_s(y_vsi)]                                   what a seed changes on an image
    V_ab = max(s_p² (1/S_a + 1/S_b), s_a²/S_a + s_b²/S_b)         seeds: never less than the pair's own
    I_ab = max(0, var_i(ȳ_ai − ȳ_bi) − w_a/S_a − w_b/S_b) / N     images
    half(α) = √(t²_{1−α/2, ν} · V_ab + z²_{1−α/2} · I_ab)

Where images come in groups g (of a patient, a scene), var_i is N times the variance of the mean over groups,
G/(G − 1) Σ_g (Σ_{i∈g} d_i − d)² / N.

p is the α at which half(α) = |d|. Variances are pooled only where the study's largest and smallest s_v² agree
(`poolable`): a noisy variant would hide what quiet ones show, and lend its degrees of freedom to a pair that has not
so many. Else V_ab is the pair's own, s_a²/S_a + s_b²/S_b, and ν Welch's; two variants alone always take Welch's ν.
Pairs are tested step by step with Shaffer's factors (1986): after each rejection, only as many hypotheses count as can
still be true together.

Equal seeds share their data order and augmentation, but a pairing by seed is not used: initializations differ between
architectures, and an unpaired test is valid for any correlation of 0 or more. A study of variants that start from the
same weights may declare `test: paired`: V_ab is then the variance of the differences by seed, ν = S − 1, and a flip
counts where the two variants' differ. `test: exact` replaces Student's t by all regroupings of the runs (`exact`).

Runs of several machines or versions are compared within these blocks: `blocks` says what becomes of V_ab and ν.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from referee.statistics import exact
from referee.statistics.blocks import estimated
from referee.statistics.intervals import Interval

LEVEL = 0.05
LEAST_P = 1e-12
UNLIKE = 0.05  # tail of F in which the variances of a study do not agree
ALL_PAIRS = 10  # of five variants; with more, the largest and the smallest of so many variances are further apart
TESTS = ("pooled", "exact", "paired")


class Dependence(NamedTuple):
    """What test images have to do with each other."""

    groups: np.ndarray | None = None  # (N,) from 0, images of a group being alike; None: images are independent
    overlap: float = 1.0  # by which I grows, since the images also train each other's models

    def variance(self, gaps: np.ndarray) -> float:
        """Return the variance of an image's gap, (N,); of grouped images N times that of the mean (cluster-robust)."""
        if self.groups is None:
            return float(gaps.var(ddof=1))
        sums = np.bincount(self.groups, gaps - gaps.mean())
        return float((sums**2).sum()) / len(gaps) * len(sums) / (len(sums) - 1)

    def of_one(self, images: int) -> float:
        """Return what `variance` is, about, where one image, or group, differs: the least that none of them leaves."""
        return images / (images if self.groups is None else int(self.groups.max()) + 1) ** 2

    def together(self, gaps: np.ndarray) -> np.ndarray:
        """Return for each image the sum of the gaps, (N,), of its group."""
        return gaps if self.groups is None else np.bincount(self.groups, gaps)[self.groups]

    def changes(self, outcomes: np.ndarray) -> np.ndarray:
        """Return what a seed changes on each image, (N,), whose mean is w; of grouped images with their group."""
        apart = outcomes - outcomes.mean(axis=0)  # (S, N), S at least 2
        return np.asarray((apart * np.stack([*map(self.together, apart)])).sum(axis=0) / (len(outcomes) - 1))


INDEPENDENT = Dependence()


class Difference(NamedTuple):
    """Variant a against variant b."""

    mean: float  # of a minus b, higher being better
    seeds: float  # V_ab
    images: float  # I_ab
    freedom: float  # ν
    pairs: int  # of the study
    level: float  # at which the study tests, 0.05 or that of one of several looks
    scores: tuple[np.ndarray, np.ndarray] | None = None  # by seed, for the exact test
    alike: bool = True  # whether the spreads of the study agree
    p: float = math.nan
    adjusted: float = math.nan  # for all pairs of the study

    def reversed(self) -> "Difference":
        """Return variant b against variant a."""
        return self._replace(mean=-self.mean, scores=None if self.scores is None else self.scores[::-1])

    def interval_at(self, alpha: float) -> Interval:
        """Return the interval of confidence 1 − alpha; without ends where blocks leave nothing to compare."""
        if self.scores is not None:
            return Interval(self.mean, *exact.interval(*self.scores, self.images, alpha))
        half = half_width(alpha, self.seeds, self.images, self.freedom) if math.isfinite(self.seeds) else math.nan
        return Interval(self.mean, self.mean - half, self.mean + half)

    def p_of(self, value: float) -> float:
        """Return the two-sided p-value of a true difference of this value."""
        if self.scores is not None:
            a, b = self.scores
            return exact.p_value(a - value, b, self.images)
        return p_value(self.mean - value, self.seeds, self.images, self.freedom)

    @property
    def interval(self) -> Interval:
        """The interval of this pair among all pairs: simultaneous, by Bonferroni."""
        return self.interval_at(self.level / self.pairs)

    def is_within(self, margin: float) -> bool:
        """Whether the variants are equal to within a margin: two one-sided tests at the study's level."""
        _, low, high = self.interval_at(2 * self.level / self.pairs)
        return -margin < low and high < margin


def half_width(alpha: float, seeds: float, images: float, freedom: float) -> float:
    """Return half(α) for variances of seeds and images: the squares of the two sources' half-widths added."""
    t, z = special.stdtrit(freedom, alpha / 2), special.ndtri(alpha / 2)
    return float(math.sqrt(t**2 * seeds + z**2 * images))


def differences(
    outcomes: Sequence[np.ndarray],
    test: str = "pooled",
    level: float = LEVEL,
    dependence: Dependence = INDEPENDENT,
    blocks: Sequence[np.ndarray] | None = None,
) -> dict[tuple[int, int], Difference]:
    """Compare all variants.

    Args:
        outcomes: Of each variant, (S, N), S at least 2, bool or any value of an image; or (S, 1) scores; higher being
            better. Paired variants have the same seeds in the same order.
        test: One of TESTS.
        dependence: Of the images.
        blocks: Of each variant: the block of each run, (S,); None: all runs are of one. Only the pooled test takes
            their effects off; the others need equal blocks in both variants of a pair.
    """
    counts = np.array([len(y) for y in outcomes])
    images = outcomes[0].shape[1]
    step = 1 / images if outcomes[0].dtype == bool else 0.0
    by_seed = [y.mean(axis=1) for y in outcomes]
    known = estimated(by_seed, blocks) if blocks is not None and test == "pooled" else None
    if known is not None:
        outcomes = known.taken_off(outcomes)
        by_seed = [y.mean(axis=1) for y in outcomes]
    left = 1.0 if known is None else known.left
    spread = over_seeds(by_seed, step) / left
    pooled_freedom = left * (counts - 1).sum()
    pooled = float(((counts - 1) * spread).sum() / (counts - 1).sum())
    alike = poolable(spread, counts)
    means = [y.mean(axis=0) for y in outcomes]  # (N,)
    flips = [float(dependence.changes(y).mean()) / len(y) for y in outcomes]  # w / S

    tested = {}
    pairs = list(combinations(range(len(outcomes)), 2))
    for a, b in pairs:
        if test == "paired":
            by_image = outcomes[a].astype(float) - outcomes[b]
            leads = by_seed[a] - by_seed[b]
            least = step or least_gap([*by_seed, leads.round(12)])
            seeds = max(float(leads.var(ddof=1)), least**2 / 6) / counts[a]
            flipped = float(dependence.changes(by_image).mean()) / counts[a]
            freedom = float(counts[a] - 1)
        else:
            of_pair = spread[[a, b]] / counts[[a, b]]
            welch = pooled_freedom
            if of_pair.any():
                welch = left * of_pair.sum() ** 2 / (of_pair**2 / (counts[[a, b]] - 1)).sum()
            seeds = max(float(of_pair.sum()), pooled * float((1 / counts[[a, b]]).sum()) if alike else 0.0)
            seeds *= 1.0 if known is None else float(known.dearer[a, b])
            flipped = flips[a] + flips[b]
            freedom = float(pooled_freedom if alike and len(outcomes) > 2 else welch)
        apart = means[a] - means[b]
        between = dependence.variance(apart) - flipped if images > 1 else 0.0
        if outcomes[0].dtype == bool and not apart.any():
            between = dependence.of_one(images)
        over_images = dependence.overlap * max(0.0, between) / images
        scores = (by_seed[a], by_seed[b]) if test == "exact" else None
        mean = float(by_seed[a].mean() - by_seed[b].mean())
        found = Difference(mean, seeds, over_images, freedom, len(pairs), level, scores, alike)
        tested[a, b] = found._replace(p=found.p_of(0.0))
    adjusted = step_down([difference.p for difference in tested.values()], len(outcomes))
    return {pair: each._replace(adjusted=p) for (pair, each), p in zip(tested.items(), adjusted, strict=True)}


def over_seeds(scores: Sequence[np.ndarray], step: float = 0.0) -> np.ndarray:
    """Return the variance over seeds of each variant, (K,), at least that of rounding, from its scores, (S,).

    Where their resolution `step` is 0, it is the least gap between any two, so that equal scores do not show 0.
    """
    step = step or least_gap(scores)
    return np.array([max(float(each.var(ddof=1)), step**2 / 12) for each in scores])


def least_gap(scores: Sequence[np.ndarray]) -> float:
    """Return the least gap between any two scores; 0 where all are equal."""
    gaps = np.diff(np.unique(np.concatenate(scores)))
    return float(gaps.min(initial=gaps.max(initial=0.0)))


def poolable(variances: np.ndarray, counts: np.ndarray) -> bool:
    """Return whether the largest and the smallest variance over seeds, (K,), agree; `counts` are their seeds, (K,)."""
    wide, narrow = variances.argmax(), variances.argmin()
    tail = UNLIKE * min(1, ALL_PAIRS / math.comb(len(variances), 2))
    return bool(variances[wide] <= special.fdtri(counts[wide] - 1, counts[narrow] - 1, 1 - tail) * variances[narrow])


def least_visible(a: np.ndarray, b: np.ndarray, paired: bool = False) -> float:
    """Return the least I_ab that these images would show: its estimate would be above 0 in 95 % of such test sets.

    The estimate of I_ab is mean_i(U_i) / N with U_i = (ȳ_ai − ȳ_bi − d)² − what seeds flip on image i, w_ai/S_a +
    w_bi/S_b. Images being independent, its standard error is sd_i(U_i) / N^1.5, and 1.64 of them make 95 %.
    """
    gap = a.mean(axis=0) - b.mean(axis=0)  # (N,), of outcomes (S, N) bool, S at least 2
    parts = [a.astype(float) - b] if paired else [a, b]
    flipped = sum(y.var(axis=0, ddof=1) / len(y) for y in parts)
    error = float(((gap - gap.mean()) ** 2 - flipped).std(ddof=1)) / len(gap) ** 1.5
    return float(special.ndtri(1 - LEVEL)) * error


def p_value(mean: float, seeds: float, images: float, freedom: float) -> float:
    """Return the level at which the interval ends at zero."""
    if not math.isfinite(seeds):  # blocks leave nothing to compare
        return 1.0

    def excess(log_alpha: float) -> float:
        return half_width(math.exp(log_alpha), seeds, images, freedom) - abs(mean)

    if excess(math.log(LEAST_P)) <= 0:
        return LEAST_P if mean else 1.0
    return math.exp(optimize.brentq(excess, math.log(LEAST_P), 0.0))


def step_down(p_values: Sequence[float], variants: int) -> list[float]:
    """Adjust the p-values of all pairs of some variants (Shaffer 1986): Holm's procedure, sharpened."""
    return in_steps(p_values, shaffer_factors(variants))


def in_steps(p_values: Sequence[float], factors: Sequence[int]) -> list[float]:
    """Adjust p-values from the smallest on, each by its factor, and to no less than those before it."""
    order, adjusted = np.argsort(p_values), np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    return np.minimum(adjusted, 1).tolist()


@cache
def shaffer_factors(variants: int) -> tuple[int, ...]:
    """Return, for the i-th smallest p-value, how many hypotheses of equality can be true when i − 1 are false."""
    possible = sorted(_possibly_equal(variants))
    return tuple(possible[bisect_right(possible, left) - 1] or 1 for left in range(possible[-1], 0, -1))


@cache
def _possibly_equal(variants: int) -> frozenset[int]:
    """Return the numbers of equal pairs that groups of equal variants can have (Shaffer 1986, section 3)."""
    groups = ((size, _possibly_equal(variants - size)) for size in range(1, variants + 1))
    return frozenset(math.comb(size, 2) + rest for size, others in groups for rest in others) or frozenset({0})
