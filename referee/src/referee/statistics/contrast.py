"""Every question about runs is a contrast Σ_v c_v m_v of the variants' means; seeds and images are sources of chance.

A pair is +1 −1, an interaction +1 −1 −1 +1. For variant v with S_v seeds on the same N images: m_vs the accuracy of a
run, ȳ_vi the mean over seeds of "image i is classified correctly", f_v = S_v − 1, ψ the digamma function,

    s_v² = max(var_s(m_vs), (1/N)²/12)                       at least that of rounding; of scores the least gap of two
    e_v  = ln s_v² − ψ(f_v/2) + ln(f_v/2)
    x    = (K − 1) var(e) / χ²_{0.2, K−1} − mean_v ψ′(f_v/2)          x ≤ 0: d₀ = ∞; else ψ′(d₀/2) = x
    s̃_v² = (d₀ exp(mean e) + f_v s_v²) / (d₀ + f_v)          f̃_v = min(f_v + d₀, Σ f)
    V    = max(Σ c_v² s̃_v²/S_v, Σ c_v² s_v²/S_v)             seeds
    ν    = ⌊Satterthwaite(s̃, f̃)⌋                             where the own variance is larger, at most ⌊Welch⌋
    w_v  = mean_i[var_s(y_vsi)]                              what a seed changes on an image
    I    = max(0, var_i(Σ c_v ȳ_vi) − Σ c_v² w_v/S_v) / N    images
    half(α)² = t²_{1−α/2, ν} V + t²_{1−α/2, g−1} I           g: images

s̃² is Smyth's moderated variance (2004) with a one-sided 80 % bound for d₀. Fewer than three variants take their own
variances and Welch's ν, not rounded. Where images come in groups (of a patient, a scene), var_i is N times the variance
of the mean over groups, G/(G − 1) Σ_g (Σ_{i∈g} d_i − d)² / N, and g counts groups of equal size, (Σ n²)²/Σ n⁴.

p is the α at which half(α) = |d|. The pairs of a study are tested together by `closed`.

Equal seeds are not paired: an unpaired test is valid for any correlation of 0 or more. With `test: paired`, V is the
variance of the contrast by seed, ν = S − 1, and a flip counts where the variants' differ. `exact` has `test: exact`;
`blocks` what becomes of V and ν where runs come from several machines or versions.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from referee.statistics import exact
from referee.statistics.blocks import estimated

LEVEL = 0.05
CONFIDENCE = 0.95
LEAST_P = 1e-12
BOUND = 0.2  # of χ², for d₀
ROUNDING = 1e-9  # of ν, which is rounded down
TOP, REST = 0.8, 0.2  # shares of the level in a hypothesis of several groups
MOST_CLOSED = 8  # variants, whose partitions are all tested
TOGETHER = 0.6  # of the level, for intervals of all pairs that hold at once and agree with their words
TESTS = ("pooled", "exact", "paired")


class Interval(NamedTuple):
    """A mean and its confidence interval; `low` and `high` are nan for a single value."""

    mean: float
    low: float
    high: float

    def within(self, low: float, high: float) -> "Interval":
        """Clip to possible values, which Student's t exceeds with two seeds."""
        return Interval(self.mean, max(self.low, low), min(self.high, high))


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

    def size(self, images: int) -> float:
        """Return g, the number of images, or of groups of equal size that tell as much as these."""
        if self.groups is None:
            return images
        sizes = np.bincount(self.groups).astype(float)
        return float((sizes**2).sum() ** 2 / (sizes**4).sum())

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


class Rule(NamedTuple):
    """How runs are compared: by one of TESTS, with what items and blocks have to do with each other."""

    test: str = "pooled"
    dependence: Dependence = INDEPENDENT
    blocks: Mapping[Any, Mapping[Any, str]] | None = None  # of each variant, by seed; None: all runs are of one


POOLED = Rule()


class Contrast(NamedTuple):
    """What runs say about Σ_v c_v m_v."""

    mean: float  # higher being better
    seeds: float  # V
    images: float  # I
    freedom: float  # ν
    of_images: float = math.inf  # g − 1
    scores: tuple[np.ndarray, np.ndarray] | None = None  # of a pair by seed, for the exact test
    p: float = math.nan
    level: float = LEVEL  # at which it is tested, 0.05 or that of one of several looks
    pairs: int = 1  # of the study that it is a pair of
    adjusted: float = math.nan  # p for all of them
    alpha: float = LEVEL  # of its interval

    def reversed(self) -> "Contrast":
        """Return the negative contrast: variant b against variant a."""
        return self._replace(mean=-self.mean, scores=None if self.scores is None else self.scores[::-1])

    def interval_at(self, alpha: float) -> Interval:
        """Return the interval of confidence 1 − alpha; without ends where blocks leave nothing to compare."""
        if self.scores is not None:
            return Interval(self.mean, *exact.interval(*self.scores, self.images, alpha))
        half = math.nan
        if math.isfinite(self.seeds):
            half = half_width(alpha, self.seeds, self.images, self.freedom, self.of_images)
        return Interval(self.mean, self.mean - half, self.mean + half)

    def p_of(self, value: float) -> float:
        """Return the two-sided p-value of a true contrast of this value: the α at which the interval ends there."""
        if self.scores is not None:
            a, b = self.scores
            return exact.p_value(a - value, b, self.images)
        gap, sources = abs(self.mean - value), (self.seeds, self.images, self.freedom, self.of_images)
        if not math.isfinite(self.seeds) or not gap:  # blocks leave nothing to compare
            return 1.0
        if not self.images:
            p = 2 * special.stdtr(self.freedom, -gap / math.sqrt(self.seeds)) if self.seeds else LEAST_P
            return max(LEAST_P, float(p))

        from scipy import optimize  # which takes as long to import as all the rest

        def excess(log_alpha: float) -> float:
            return half_width(math.exp(log_alpha), *sources) - gap

        if excess(math.log(LEAST_P)) <= 0:
            return LEAST_P
        return math.exp(optimize.brentq(excess, math.log(LEAST_P), 0.0))

    @property
    def interval(self) -> Interval:
        return self.interval_at(self.alpha)

    @property
    def elsewhere(self) -> Interval:
        """Of a mean over D data sets: where the lead on another lies in 95 %, Δ̄ ± t √(1 + 1/D) sd."""
        return self._replace(seeds=self.seeds * (self.freedom + 2)).interval_at(LEVEL)  # V = sd²/D, ν = D − 1

    def is_within(self, margin: float) -> bool:
        """Whether it is 0 to within a margin: two one-sided tests at the study's level, shared out to its pairs."""
        _, low, high = self.interval_at(2 * self.level / self.pairs)
        return -margin < low and high < margin


def half_width(alpha: float, seed_var: float, image_var: float, seed_df: float, image_df: float = math.inf) -> float:
    """Return half(α) for variances of seeds and images: the squares of the two sources' half-widths added."""
    squares = special.stdtrit(seed_df, alpha / 2) ** 2 * seed_var
    return float(math.sqrt(squares + (special.stdtrit(image_df, alpha / 2) ** 2 * image_var if image_var else 0.0)))


def t_interval(values: Sequence[float] | np.ndarray, step: float = 0.0) -> Interval:
    """Return mean ± t · s/√n of a number per seed, Student's t with n − 1 degrees of freedom; `step` as in `spread`."""
    values = np.asarray(values, dtype=np.float64)
    n, mean = len(values), float(np.mean(values))
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * spread(values, step) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


def spread(values: np.ndarray, step: float = 0.0) -> float:
    """Return the standard deviation, but at least step/√12, that of rounding to steps: 1/N for accuracies.

    Two or three seeds sometimes agree to the last image, which does not show a deviation of zero.
    """
    return max(float(np.std(values, ddof=1)), step / math.sqrt(12))


def sampling_margin(accuracy: float, images: int) -> float:
    """Return the half-width of Wilson's interval: how far another test set of this size would move an accuracy."""
    z, a, n = float(special.ndtri((1 + CONFIDENCE) / 2)), round(accuracy * images) / images, images
    return z * math.sqrt(a * (1 - a) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)


class Cells:
    """The runs of some variants, of whose means any contrast can be taken.

    Args:
        outcomes: Of each variant, (S, N), bool or any value of an image; or (S, 1) scores; higher being better. Paired
            variants have the same seeds in the same order. A variant with one seed has no variance over seeds.
        test: One of TESTS.
        dependence: Of the images.
        blocks: Of each variant: the block of each run, (S,); None: all runs are of one. Only the pooled test takes
            their effects off; the others need equal blocks in both variants of a pair.
        names: By which contrasts name the variants; None: their numbers.
    """

    def __init__(
        self,
        outcomes: Sequence[np.ndarray],
        test: str = "pooled",
        dependence: Dependence = INDEPENDENT,
        blocks: Sequence[np.ndarray] | None = None,
        names: Iterable[Any] | None = None,
    ) -> None:
        self.test, self.dependence = test, dependence
        self.places = {name: v for v, name in enumerate(range(len(outcomes)) if names is None else names)}
        self.counts, self.images = np.array([len(y) for y in outcomes]), outcomes[0].shape[1]
        self.is_bool = outcomes[0].dtype == bool
        step = 1 / self.images if self.is_bool else 0.0
        by_seed = [y.mean(axis=1) for y in outcomes]
        self.blocks = estimated(by_seed, blocks) if blocks is not None and test == "pooled" else None
        left = 1.0
        if self.blocks is not None:
            outcomes, left = self.blocks.taken_off(outcomes), self.blocks.left
            by_seed = [y.mean(axis=1) for y in outcomes]
        self.outcomes, self.by_seed = outcomes, by_seed
        self.step = step or least_gap(by_seed)
        self.means = [y.mean(axis=0) for y in outcomes]  # (N,)
        # w/S of each variant: what the changes by seed add to the variance of its mean over images
        self.noise = [float(dependence.changes(y).mean()) / len(y) if len(y) > 1 else 0.0 for y in outcomes]
        self.freedom = left * (self.counts - 1.0)  # f
        self.spread = over_seeds(by_seed, self.step) / left  # s²
        self.shared, self.shared_freedom = moderated(self.spread, self.freedom)  # s̃², f̃

    def contrast(self, weights: Mapping[Any, float]) -> Contrast:
        """Return Σ_v c_v m_v, from c_v by variant."""
        v, c = [self.places[name] for name in weights], np.array([*weights.values()], dtype=float)
        apart = np.einsum("v,vi->i", c, np.stack([self.means[each] for each in v]))
        mean = float(c @ [self.by_seed[each].mean() for each in v])
        if self.test == "paired" and self.counts[v].min() > 1:
            by_image = np.einsum("v,vsi->si", c, np.stack([self.outcomes[each] for each in v], dtype=float))
            leads = by_image.mean(axis=1)
            least = self.step if self.is_bool else least_gap([*self.by_seed, leads.round(12)])
            seeds = max(float(leads.var(ddof=1)), least**2 * float(c @ c) / 12) / len(leads)
            noise, freedom = float(self.dependence.changes(by_image).mean()) / len(leads), len(leads) - 1.0
        else:
            own = c**2 / self.counts[v] * self.spread[v]
            seeds, freedom = float(own.sum()), satterthwaite(own, self.freedom[v])
            if (self.counts > 1).sum() > 2:
                shared = c**2 / self.counts[v] * self.shared[v]
                of_shared = satterthwaite(shared, self.shared_freedom[v])
                freedom = min(of_shared, freedom) if seeds > shared.sum() else of_shared
                seeds, freedom = max(seeds, float(shared.sum())), max(1.0, math.floor(freedom + ROUNDING))
            if self.images == 1 and self.counts[v].max() == 1:
                seeds = math.inf  # a single number each
            if self.blocks is not None:
                seeds *= self.blocks.growth(dict(zip(v, c, strict=True)))
            noise = float(c**2 @ [self.noise[each] for each in v])
        between = self.dependence.variance(apart) - noise if self.images > 1 else 0.0
        if self.is_bool and not apart.any():
            between = self.dependence.of_one(self.images)
        over_images = self.dependence.overlap * max(0.0, between) / self.images
        scores = (self.by_seed[v[0]], self.by_seed[v[1]]) if self.test == "exact" else None
        of_images = max(self.dependence.size(self.images) - 1, 1.0)
        found = Contrast(mean, seeds, over_images, freedom, of_images, scores)
        return found._replace(p=found.p_of(0.0))

    def pair(self, a: Any, b: Any) -> Contrast:
        """Return variant a minus variant b."""
        return self.contrast({a: 1.0, b: -1.0})


def satterthwaite(variances: np.ndarray, freedom: np.ndarray) -> float:
    """Return the degrees of freedom of a sum of variances that have their own."""
    if not variances.any():
        return float(freedom.sum()) or math.inf
    return float(variances.sum() ** 2 / (variances**2 / freedom)[variances > 0].sum())


def mean_of(contrasts: Sequence[Contrast]) -> Contrast:
    """Return the mean of independent contrasts, such as those on several data sets: V = Σ V_d/D², I likewise."""
    D = len(contrasts)
    V, over_images, ν, g = (np.array(each) for each in zip(*(each[1:5] for each in contrasts), strict=True))
    freedom, of_images = satterthwaite(V, ν), satterthwaite(over_images, g) if np.isfinite(g).all() else math.inf
    mean = float(np.mean([each.mean for each in contrasts]))
    found = Contrast(mean, float(V.sum()) / D**2, float(over_images.sum()) / D**2, freedom, of_images)
    return found._replace(p=found.p_of(0.0))


def moderated(variances: np.ndarray, freedom: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return s̃² and f̃ of variants, (…, K), from s² and f, (K,); as they are if fewer than three have several seeds."""
    several = freedom > 0
    if several.sum() < 3 or not variances.any():
        return variances, freedom
    f, K = freedom[several], int(several.sum())
    e = np.log(variances[..., several]) - special.digamma(f / 2) + np.log(f / 2)
    typical = np.exp(e.mean(axis=-1, keepdims=True))
    x = e.var(axis=-1, keepdims=True) * K / special.chdtri(K - 1, 1 - BOUND) - special.polygamma(1, f / 2).mean()
    prior = 2 * _inverse_trigamma(np.maximum(x, ROUNDING))  # x ≤ 0: nearly ∞
    return (prior * typical + freedom * variances) / (prior + freedom), np.minimum(freedom + prior, freedom.sum())


def _inverse_trigamma(x: np.ndarray) -> np.ndarray:
    """Return y with ψ′(y) = x, by Newton's method (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(50):
        trigamma = special.polygamma(1, y)
        step = trigamma * (1 - trigamma / x) / special.polygamma(2, y)
        y += step
        if (np.abs(step) < 1e-10 * y).all():
            break
    return y


def all_pairs(
    outcomes: Sequence[np.ndarray],
    test: str = "pooled",
    dependence: Dependence = INDEPENDENT,
    blocks: Sequence[np.ndarray] | None = None,
) -> dict[tuple[int, int], Contrast]:
    """Compare all variants, see `Cells`."""
    cells = Cells(outcomes, test, dependence, blocks)
    pairs = {pair: cells.pair(*pair) for pair in combinations(range(len(outcomes)), 2)}
    return in_family(pairs, {v: float(y.mean()) for v, y in enumerate(cells.by_seed)})


def in_family(
    pairs: Mapping[tuple[Any, Any], Contrast], means: Mapping[Any, float], level: float = LEVEL
) -> dict[tuple[Any, Any], Contrast]:
    """Return all pairs of some variants with adjusted p-values, and with intervals that hold at once."""
    ranked = sorted(means, key=lambda v: -means[v])
    p = np.ones((len(ranked), len(ranked)))
    place = {v: rank for rank, v in enumerate(ranked)}
    for (a, b), each in pairs.items():
        p[place[a], place[b]] = p[place[b], place[a]] = each.p
    adjusted, alpha = closed(p) if pairs else p, level if len(pairs) < 2 else TOGETHER * level / len(pairs)
    return {
        (a, b): each._replace(level=level, pairs=len(pairs), adjusted=float(adjusted[place[a], place[b]]), alpha=alpha)
        for (a, b), each in pairs.items()
    }


def both_ways(pairs: Mapping[tuple[Any, Any], Contrast]) -> dict[tuple[Any, Any], Contrast]:
    """Return all pairs, and each from its other side."""
    return {**pairs, **{(b, a): each.reversed() for (a, b), each in pairs.items()}}


def over_seeds(scores: Sequence[np.ndarray], step: float = 0.0) -> np.ndarray:
    """Return the variance over seeds of each variant, (K,), at least that of rounding, from its scores, (S,).

    Where their resolution `step` is 0, it is the least gap between any two, so that equal scores do not show 0.
    """
    step = step or least_gap(scores)
    return np.array([max(float(each.var(ddof=1)), step**2 / 12) if len(each) > 1 else 0.0 for each in scores])


def least_gap(scores: Sequence[np.ndarray]) -> float:
    """Return the least gap between any two scores; 0 where all are equal."""
    gaps = np.diff(np.unique(np.concatenate(scores)))
    return float(gaps.min(initial=gaps.max(initial=0.0)))


# ---- which pairs are better


def enough(counts: Sequence[int]) -> list[bool]:
    """Return which variants are compared, from their seeds: with two, no rule holds beside more than four."""
    return [count > 1 and not count == 2 < 4 < max(counts) for count in counts]


def closed(p: np.ndarray) -> np.ndarray:
    """Adjust the p-values of all pairs, (…, K, K) in the order of the means, the best first, by a closed test.

    A hypothesis is a partition of the variants into groups of equals. For a group B whose best mean is ℓ: gap(B) =
    max_{j ∈ B} p_ℓj, all(B) = C(|B|, 2) · min p in B, top(B) = min(gap, all). A partition with one group of two or more
    has q = top(B). With more, B₁ being the group whose best ranks highest, and m the number of pairs within all
    groups, q = min(top(B₁)/0.8, m · min p/0.2). The adjusted p of a pair is the largest q of all partitions that have
    it in one group. Each q is valid: of the gap as an intersection-union test, of the rest by Bonferroni.

    Of many variants, (K, K), it is at most this: the larger p of those from the top, each against all below, or
    Shaffer's.
    """
    K = p.shape[-1]
    if K > MOST_CLOSED:
        rows, columns = np.triu_indices(K, 1)
        from_top = np.maximum.accumulate([p[rank, rank + 1 :].max(initial=0) for rank in range(K)])[rows]
        q = np.minimum(from_top / TOP, np.array(in_steps(p[rows, columns], shaffer_factors(K))) / REST)
        adjusted = np.zeros((K, K))
        adjusted[rows, columns] = np.minimum(q, 1)
        return adjusted + adjusted.T
    within, top = _partitions(K)  # (L, K, K) pairs in a group, and those in the first; each once
    leader = top.any(axis=2).argmax(axis=1)
    gap = np.where(top[np.arange(len(top)), leader], p[..., leader, :], 0).max(axis=-1)
    of_each = p[..., None, :, :]
    every = top.sum(axis=(1, 2)) * np.where(top, of_each, 1).min(axis=(-1, -2))
    of_top, m = np.minimum(gap, every), within.sum(axis=(1, 2))
    of_several = np.minimum(of_top / TOP, m * np.where(within, of_each, 1).min(axis=(-1, -2)) / REST)
    q = np.minimum(np.where(m > top.sum(axis=(1, 2)), of_several, of_top), 1)
    adjusted = np.where(within, q[..., None, None], 0).max(axis=-3)
    return np.asarray(adjusted + adjusted.swapaxes(-1, -2))


@cache
def _partitions(variants: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs that each partition has in a group, and those in the group whose best ranks highest."""
    labels: list[tuple[int, ...]] = [()]
    for _ in range(variants):
        labels = [(*each, label) for each in labels for label in range(max(each, default=-1) + 2)]
    groups = np.array(labels[:-1])  # the last has no group of two
    within = np.triu(groups[:, :, None] == groups[:, None, :], 1)
    leader = within.any(axis=2).argmax(axis=1)
    return within, within & (groups == groups[np.arange(len(groups)), leader][:, None])[:, :, None]


def in_steps(p_values: Sequence[float] | np.ndarray, factors: Sequence[int]) -> list[float]:
    """Adjust p-values from the smallest on, each by its factor, and to no less than those before it (Holm, Shaffer)."""
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
