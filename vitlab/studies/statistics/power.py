"""How many seeds or test images a difference takes, from the variances of a pilot (see `comparison`). Power is 80 %.

    need(σ², δ) = least n with  √(t²_{1−α'/2, K(n−1)} · 2σ²/n + z²_{1−α'/2} · I) + z_{0.8} · √(2σ²/n + I) ≤ δ

with K variants and α' = 0.05 divided by the number of pairs. The pilot's variance over seeds is itself uncertain, by χ²
with ν degrees of freedom, which gives the range; plan at its upper end. Where even σ = 0 is not enough, more seeds
cannot help and N · I · (z_{1−α'/2} + z_{0.8})² / δ² test images are needed.
"""

import math
from bisect import bisect_left
from typing import NamedTuple

from scipy import stats

from vitlab.studies.statistics.comparison import LEVEL

POWER = 0.8
MOST_SEEDS = 1_000


class Pilot(NamedTuple):
    """What a study so far, or a guess, says about variances."""

    variants: int
    seeds: float  # σ², of a run's score
    images: float  # I, of a pair's difference
    freedom: float  # ν of `seeds`
    test_images: int

    @property
    def alpha(self) -> float:
        return LEVEL / math.comb(self.variants, 2)


class Need(NamedTuple):
    """Seeds of each variant, with the 80 % range; None: more than MOST_SEEDS."""

    seeds: int | None
    low: int | None
    high: int | None
    images: int | None  # test images needed where no number of seeds is enough


def need(pilot: Pilot, difference: float) -> Need:
    """Return what settles a true difference in four of five studies."""
    if (missing := images_needed(pilot, difference)) is not None:
        return Need(None, None, None, missing)
    low, high = (pilot.freedom * pilot.seeds / stats.chi2.ppf(q, pilot.freedom) for q in (0.9, 0.1))
    point, least, most = (seeds_needed(pilot._replace(seeds=s), difference) for s in (pilot.seeds, low, high))
    return Need(point, least, most, None)


def seeds_needed(pilot: Pilot, difference: float) -> int | None:
    """Return the least number of seeds of each variant."""
    candidates = range(2, MOST_SEEDS + 1)
    index = bisect_left(candidates, True, key=lambda n: detectable(pilot, n) <= difference)
    return candidates[index] if index < len(candidates) else None


def detectable(pilot: Pilot, n: int) -> float:
    """Return the true difference that four of five studies of n seeds settle."""
    variance = 2 * pilot.seeds / n
    t, z = stats.t.isf(pilot.alpha / 2, pilot.variants * (n - 1)), stats.norm.isf(pilot.alpha / 2)
    return float(
        math.sqrt(t**2 * variance + z**2 * pilot.images) + stats.norm.ppf(POWER) * math.sqrt(variance + pilot.images)
    )


def images_needed(pilot: Pilot, difference: float) -> int | None:
    """Return the test images needed with any number of seeds, if more than there are."""
    z = stats.norm.isf(pilot.alpha / 2) + stats.norm.ppf(POWER)
    needed = math.ceil(pilot.test_images * pilot.images * (z / difference) ** 2) if difference else 0
    return needed if needed > pilot.test_images else None
