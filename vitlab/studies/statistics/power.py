"""What a study of some size could have seen, and the size it would take. Power is 80 %, the seeds taken as normal.

A difference must pass sign flips over seeds and the bootstrap over seeds and images (`statistics`), so the smallest
visible one is the larger of what either can see; flips over images see more than the bootstrap. Seeds shrink what
training adds to the error, not what the choice of test images adds: some questions need other images.
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
SIMULATED_SEEDS = 10  # sign flips are simulated up to so many; with more they see what the t-test sees
SIMULATIONS = 2_000
MOST_SEEDS = 1_000


class Outlook(NamedTuple):
    """What a pair of variants could have shown; differences are of accuracy."""

    least_seeds: int  # with fewer, no difference however large is significant
    visible: float  # the smallest true difference found in four of five such studies; infinite below `least_seeds`
    seeds: int | None  # to find a difference as large as the measured one; None: no number up to MOST_SEEDS
    images: int | None  # where no number of seeds would do: the test images it takes at least


def outlook(cells: np.ndarray, level: float) -> Outlook:
    """Extrapolate from the differences on each image with each seed (S, N), S at least 2, to other sizes."""
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
    """Return the number of seeds with which sign flips reach a level: their p-value is at least 2/2ⁿ."""
    return math.ceil(math.log2(2 / level))


@cache
def detectable_effect(seeds: int, level: float) -> float:
    """Return the smallest Cohen's d that the sign-flip test finds; `seeds` must be `least_seeds(level)` or more."""
    power = _power_of_flips(seeds, level) if seeds <= SIMULATED_SEEDS else _power_of_t(seeds, level)
    return float(optimize.bisect(lambda effect: power(effect) - POWER, 0, 20, xtol=0.005))


def _power_of_flips(seeds: int, level: float) -> Callable[[float], float]:
    draws = np.random.default_rng(0).normal(size=(seeds, SIMULATIONS))
    signs = np.array(list(itertools.product([1], *[[1, -1]] * (seeds - 1))))  # half of the flips mirror the others

    def power(effect: float) -> float:
        sums = np.abs(signs @ (draws + effect))  # (2^(n − 1), simulations); the first are not flipped
        return float(np.mean(np.mean(sums >= sums[0] * (1 - 1e-12), axis=0) <= level))

    return power


def _power_of_t(seeds: int, level: float) -> Callable[[float], float]:
    critical = stats.t.isf(level / 2, seeds - 1)
    return lambda effect: float(stats.nct.sf(critical, seeds - 1, effect * math.sqrt(seeds)))


def _images_needed(z: float, variance: float, gap: float, images: int) -> int | None:
    """Return the test images at which an endless number of seeds would do, if more than there are; to two digits."""
    needed = math.ceil(variance * (z / gap) ** 2) if gap else 0
    unit = 10 ** max(len(str(needed)) - 2, 0)
    return -(-needed // unit) * unit if needed > images else None
