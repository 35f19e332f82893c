"""How many seeds or test images a difference takes, from the variances of a pilot (see `contrast`). Power is 80 %.

    detectable(n) = √(t²_{1−α/2, ν} · 2σ²/n + z²_{1−α/2} · I) + z_K · √(2σ²/n + I)
    need(δ) = least n with detectable(n) ≤ δ

is the lead over all others of one of K variants that 80 % of studies of n seeds find. σ² is the variance of a run's
score over seeds, I the variance that the choice of test images gives a difference. The closed test asks each of the
leads at the study's level, α; from four variants on, of which others may tie, at 0.8 of it. They are found together
where all are above chance: E[Φ(X + √2 z_K)^{K−1}] = 0.8 for a normal X. ν = 1.2 (n − 1), or 1.5 (n − 1) for two
variants, is fitted: 77 to 82 % of simulated studies of up to six variants and four seeds or more find that lead
(`python -m benchmarks.scores plans`). A pilot knows both variances roughly:

    σ²: s_p² pooled over variants, ν s_p²/χ²_{0.92, ν} to ν s_p²/χ²_{0.08, ν}
    I:  the mean over images of  g_i = mean_ab[(ȳ_ai − ȳ_bi − d_ab)² − w_ai/S_a − w_bi/S_b],  divided by N;
        ± z_{0.92} standard errors, which are those of a mean of N numbers

Their effects on detectable(n) are squared and added (Zou & Donner 2008), and need is read off at either end, which
contains the truth in four of five pilots (`python -m benchmarks.simulations planning`). Where even σ = 0 and
the low end of I are not enough, seeds cannot help, and N · I · (z_{1−α/2} + z_K)² / δ² test images are needed at
least; twice as many leave half of δ² to the seeds.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import special

from referee.statistics.contrast import INDEPENDENT, LEVEL, TOP, Dependence
from referee.statistics.sequential import POWER, level_after, levels

MOST_SEEDS = 1_000
LADDER = (5, 7, 10, 15, 20, 30)  # seeds for which a level is simulated; between them the next larger one's holds
TAIL = 0.08  # outside either end of a variance's range; 0.1 would leave no room for seeds that are not normal
FLIPS = 0.5  # fraction of an accuracy's variance over images that changes with the seed; 0.4 to 0.55 in trained models
SHARED = (0.9, 0.8, 0.6)  # correlation over images of two variants' chances to be right: most, likely, least
ENDS = (0, -1, 1)  # of a range, in the order of its fields


class Variances(NamedTuple):
    """What moves a difference, in squared units of the score."""

    seeds: float  # σ², of a run's score
    images: float  # I, of a pair's difference


def growing(
    looks: tuple[int, ...], watched: bool, test: str = "pooled", rising: bool = False
) -> Callable[[int], float]:
    """Return the level of a study that has these looks, and if it has more seeds, as many more looks as they take.

    One that is not watched is looked at once more, after all seeds; `rising` is as in `levels`.
    """
    step = looks[-1] - looks[-2] if len(looks) > 1 else 1

    def level_up_to(n: int) -> float:
        last = next((size for size in LADDER if size >= n), LADDER[-1]) if n > looks[-1] else looks[-1]
        if not watched:
            return level_after((*looks, last) if last > looks[-1] else looks, test)
        planned = (*looks, *range(looks[-1] + step, last + 1, step))
        return levels(planned, test, rising)[max(bisect_right(planned, n) - 1, 0)]

    return level_up_to


class Pilot(NamedTuple):
    """What is known of a study that is to be planned."""

    variants: int  # K
    test_images: int  # N
    point: Variances
    low: Variances
    high: Variances
    level: Callable[[int], float] = lambda n: LEVEL  # family-wise, of a study of at most n seeds

    def alpha(self, n: int) -> float:
        """Return the level of each lead of the best variant."""
        return self.level(n) * (TOP if self.variants > 3 else 1)


class Range(NamedTuple):
    """An answer, and the range from the low to the high variances; None: more than MOST_SEEDS."""

    point: int | None
    low: int | None
    high: int | None

    def __str__(self) -> str:
        if self.low is None:
            return f"over {MOST_SEEDS:,}"
        ends = [end for end in (self.low, self.high) if end is not None]
        units = [10 ** max(len(str(end)) - 2, 0) if end > MOST_SEEDS else 1 for end in ends]
        shown = [f"{-(-end // unit) * unit:,}" for end, unit in zip(ends, units, strict=True)]  # two digits, rounded up
        return " to ".join(dict.fromkeys(shown)) if len(ends) > 1 else f"{shown[0]} or more"


class Need(NamedTuple):
    """What settles a difference."""

    seeds: Range  # of each variant; with twice the images where these are too few
    images: Range | None = None  # that even endless seeds take; None where there are so many


def measured(
    outcomes: Sequence[np.ndarray],
    variants: int,
    test_images: int | None = None,
    dependence: Dependence = INDEPENDENT,
) -> Pilot | None:
    """Estimate a pilot's variances from finished runs, by variant (S, N) or (S, 1) scores; None if too few.

    Variants with one seed are left out. `variants` and `test_images` are those of the study that is planned: the
    variance over images, and what seeds flip on them, fall with their number.
    """
    outcomes = [y for y in outcomes if len(y) > 1]
    N = outcomes[0].shape[1] if outcomes else 0
    if not outcomes or (N > 1 and len(outcomes) < 2):
        return None
    least = (1 / N) ** 2 / 12 if outcomes[0].dtype == bool else 0.0
    spread = [max(float(y.mean(axis=1).var(ddof=1)), least) for y in outcomes]
    freedom = [len(y) - 1 for y in outcomes]
    seeds = float(np.average(spread, weights=freedom))
    nu, size = sum(freedom), test_images or N
    g, flips = np.zeros(1), 0.0
    if N > 1:
        changes, means = [dependence.changes(y) for y in outcomes], [y.mean(axis=0) for y in outcomes]  # w_i
        by_pair = []
        for a, b in combinations(range(len(outcomes)), 2):
            gap = means[a] - means[b] - (means[a] - means[b]).mean()
            noise = changes[a] / len(outcomes[a]) + changes[b] / len(outcomes[b])
            by_pair.append(gap * dependence.together(gap) - noise)
        g, flips = dependence.overlap * np.mean(by_pair, axis=0), float(np.mean(changes))

    def resized(variance: float) -> float:
        return max(variance - flips / N, 0.0) + flips / size if size != N else variance

    sums = g if dependence.groups is None or N == 1 else np.bincount(dependence.groups, g)  # of what is independent
    image, error = float(g.mean()), float(special.ndtri(1 - TAIL) * sums.std() * math.sqrt(len(sums)) / len(g))
    low, high = (float(nu * seeds / special.chdtri(nu, tail)) for tail in (TAIL, 1 - TAIL))
    ends = (seeds, image), (low, image - error), (high, image + error)
    point, least_, most = (Variances(resized(s), max(i, 0.0) / size) for s, i in ends)
    return Pilot(variants, size, point, least_, most)


def guessed(variants: int, test_images: int, accuracy: float) -> Pilot:
    """Return the pilot that the size of the test set gives before any run.

    A seed flips single images, so its variance is at least w/N with w = FLIPS · a(1 − a); converged models are close
    to that floor (Jordan 2023, arXiv 2304.01910), so σ is taken as 1 to 2 times its root. The chances to be right,
    which flips leave, have the variance (1 − FLIPS) · a(1 − a) over images, and are shared by variants.
    """
    total = accuracy * (1 - accuracy) / test_images
    low, point, high = (
        Variances(factor**2 * FLIPS * total, 2 * (1 - FLIPS) * (1 - shared) * total)
        for factor, shared in zip((1, 1.5, 2), SHARED, strict=True)
    )
    return Pilot(variants, test_images, point, low, high)


def need(pilot: Pilot, difference: float) -> Need:
    """Return what settles a true difference in four of five studies."""
    known, images = (pilot.point, pilot.low, pilot.high), None
    needed = Range(*(images_needed(pilot, each, difference) for each in known))
    if needed.low is not None and needed.low > pilot.test_images:  # then with twice as many
        images, size = needed, 2 * (needed.point or needed.low)
        share = pilot.test_images / size
        point, low, high = (v._replace(images=share * v.images) for v in known)
        pilot = pilot._replace(test_images=size, point=point, low=low, high=high)
    return Need(Range(*(seeds_needed(pilot, difference, end) for end in ENDS)), images)


def seeds_needed(pilot: Pilot, difference: float, end: int = 0) -> int | None:
    """Return the least number of seeds of each variant; `end` as in `detectable`."""
    if detectable(pilot, MOST_SEEDS, end) > difference:
        return None
    candidates = range(2, MOST_SEEDS)
    return 2 + bisect_left(candidates, True, key=lambda n: detectable(pilot, n, end) <= difference)


def detectable(pilot: Pilot, n: int, end: int = 0) -> float:
    """Return the lead over all others that four of five studies of n seeds find; `end`: 0 point, -1 low, 1 high."""
    t = -float(special.stdtrit((1.2 if pilot.variants > 2 else 1.5) * (n - 1), pilot.alpha(n) / 2))
    z, of_power = -float(special.ndtri(pilot.alpha(n) / 2)), _of_power(pilot.variants)

    def difference(sigma: float, images: float) -> float:
        seeds = 2 * sigma / n
        return math.sqrt(t**2 * seeds + z**2 * images) + of_power * math.sqrt(seeds + images)

    (sigma, images), point = pilot.point, difference(*pilot.point)
    if end == 0:
        return point
    limit = pilot.low if end < 0 else pilot.high
    return point + end * math.hypot(difference(limit.seeds, images) - point, difference(sigma, limit.images) - point)


def images_needed(pilot: Pilot, variances: Variances, difference: float) -> int:
    """Return the test images that are needed with any number of seeds."""
    z = _of_power(pilot.variants) - float(special.ndtri(pilot.alpha(MOST_SEEDS) / 2))
    return math.ceil(pilot.test_images * variances.images * (z / difference) ** 2)


@cache
def _of_power(variants: int) -> float:
    """Return z_K."""
    x, weights = np.polynomial.hermite_e.hermegauss(40)
    z = np.linspace(0, 5, 501)
    found = weights @ special.ndtr(x[:, None] + math.sqrt(2) * z) ** (variants - 1) / math.sqrt(2 * math.pi)
    return float(np.interp(POWER, found, z))
