import math

import numpy as np
import pytest
from scipy import stats

from vitlab.studies.statistics.comparison import sign_flip_p
from vitlab.studies.statistics.power import detectable_effect, least_seeds, outlook


def test_six_seeds_are_the_fewest_that_can_claim_anything_and_more_pairs_take_more() -> None:
    # 2/2⁵ > .05 ≥ 2/2⁶; with three pairs .05/3, 2/2⁷ = .0156; with six .05/6, 2/2⁸ = .0078.
    assert [least_seeds(0.05 / pairs) for pairs in (1, 3, 6)] == [6, 7, 8]


def test_with_six_seeds_all_must_agree() -> None:
    # P(all six of the same sign) = Φ(d)⁶ + Φ(−d)⁶ = .8 at d = 1.79
    assert detectable_effect(6, 0.05) == pytest.approx(float(stats.norm.ppf(0.8 ** (1 / 6))), abs=0.05)


@pytest.mark.parametrize("seeds", [8, 11])
def test_a_detectable_effect_is_found_in_four_of_five_studies(seeds: int) -> None:
    draws = np.random.default_rng(5).normal(detectable_effect(seeds, 0.05), 1, (200, seeds))
    power = np.mean([sign_flip_p(draw) <= 0.05 for draw in draws])
    assert power == pytest.approx(0.8, abs=0.085)  # 200 studies: ± 3 standard errors


def cells(by_seed: float, by_image: float, rest: float, mean: float, seeds: int = 8, images: int = 400) -> np.ndarray:
    rng = np.random.default_rng(0)
    drawn = by_seed * rng.normal(size=(seeds, 1)) + by_image * rng.normal(size=images)
    drawn = drawn + rest * rng.normal(size=(seeds, images))
    return drawn - drawn.mean() + mean


def test_few_seeds_see_nothing() -> None:
    few = outlook(cells(1, 0, 1, mean=1.2, seeds=3), 0.05)
    assert few.visible == math.inf
    assert few.least_seeds == 6
    assert few.seeds is not None
    assert few.seeds >= 6


def test_what_seeds_bring_can_be_had_by_seeds() -> None:
    estimate = outlook(cells(1, 0, 0.1, mean=0.6), 0.05)
    assert estimate.visible > 0.6
    assert estimate.seeds is not None
    # Nothing but seeds varies, with s ≈ 1: as many as the sign flips take to see an effect of 0.6 / s.
    spread = np.std(cells(1, 0, 0.1, mean=0.6).mean(axis=1), ddof=1)
    assert detectable_effect(estimate.seeds, 0.05) <= 0.6 / spread < detectable_effect(estimate.seeds - 1, 0.05)


def test_what_images_bring_can_only_be_had_by_images() -> None:
    estimate = outlook(cells(0.01, 1, 0.1, mean=0.05), 0.05)
    assert estimate.seeds is None
    # (z(97.5 %) + z(80 %)) · σ/√N = gap: N = (2.80 · 1/.05)² = 3,140
    assert estimate.images == pytest.approx(3140, rel=0.2)


def test_no_difference_is_never_found() -> None:
    assert outlook(np.zeros((6, 50)), 0.05)[2:] == (None, None)
