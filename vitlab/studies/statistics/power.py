"""What a study can detect, and the size it would need. Power is 80 %, and seeds are taken as normally distributed.

A difference must pass sign flips over seeds and the bootstrap over seeds and images (`comparison`), so the smallest
detectable one is the larger of the two tests'; sign flips over images detect more than the bootstrap. More seeds reduce
the error from training, not that from the choice of test images, so some questions need more images.
"""

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from vitlab.studies.statistics.bootstrap import components

POWER = 0.8
SIMULATED_SEEDS = 10  # up to which sign flips are simulated; with more they are as powerful as the t-test
SIMULATIONS = 2_000
MOST_SEEDS = 1_000


class Outlook(NamedTuple):
    """What a study can detect for a pair of variants; differences are of accuracy."""

    least_seeds: int  # with fewer, no difference is significant
    visible: float  # smallest true difference that four of five studies detect; infinite below `least_seeds`
    seeds: int | None  # to detect a difference as large as measured; None: more than MOST_SEEDS
    images: int | None  # if no number of seeds suffices: test images needed at least


def outlook(cells: np.ndarray, level: float) -> Outlook:
    """Extrapolate the differences by seed and image (S, N), S at least 2, to other sizes."""
    parts, (seeds, images) = components(cells), cells.shape
    gap = abs(float(cells.mean()))
    z = float(stats.norm.isf(level / 2) + stats.norm.ppf(POWER))

    def visible(seeds: int) -> float:
        over_seeds = math.sqrt(parts.seed + parts.rest / images)
        return max(detectable_effect(seeds, level) * over_seeds, z * parts.error(seeds, images))

    least = least_seeds(level)
    could = visible(seeds) if seeds >= least else math.inf
    candidates = range(least, MOST_SEEDS + 1)
    needed = least + bisect_left(candidates, True, key=lambda n: visible(n) <= gap)
    if gap and needed <= MOST_SEEDS:
        return Outlook(least, could, needed, None)
    return Outlook(least, could, None, _images_needed(z, parts.image, gap, images))


def least_seeds(level: float) -> int:
    """Return the number of seeds with which sign flips can reach a level: their p-value is at least 2/2ⁿ."""
    return math.ceil(math.log2(2 / level))


@cache
def detectable_effect(seeds: int, level: float) -> float:
    """Return the smallest Cohen's d that the sign-flip test detects; `seeds` must be `least_seeds(level)` or more."""
    power = _power_of_flips(seeds, level) if seeds <= SIMULATED_SEEDS else _power_of_t(seeds, level)
    return float(optimize.bisect(lambda effect: power(effect) - POWER, 0, 20, xtol=0.005))


def _power_of_flips(seeds: int, level: float) -> Callable[[float], float]:
    draws = np.random.default_rng(0).normal(size=(seeds, SIMULATIONS))
    signs = np.array(list(itertools.product([1], *[[1, -1]] * (seeds - 1))))  # the other half mirrors these

    def power(effect: float) -> float:
        sums = np.abs(signs @ (draws + effect))  # (2^(n − 1), simulations); the first are not flipped
        return float(np.mean(np.mean(sums >= sums[0] * (1 - 1e-12), axis=0) <= level))

    return power


def _power_of_t(seeds: int, level: float) -> Callable[[float], float]:
    critical = stats.t.isf(level / 2, seeds - 1)
    return lambda effect: float(stats.nct.sf(critical, seeds - 1, effect * math.sqrt(seeds)))


def _images_needed(z: float, variance: float, gap: float, images: int) -> int | None:
    """Return the test images needed with infinitely many seeds, if more than present; rounded up to two digits."""
    needed = math.ceil(variance * (z / gap) ** 2) if gap else 0
    unit = 10 ** max(len(str(needed)) - 2, 0)
    return -(-needed // unit) * unit if needed > images else None
