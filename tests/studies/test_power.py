"""The planner's numbers: simulated power at its answers, simulated pilots, and cases by hand."""

import math

import numpy as np
import pytest
from referee.statistics.contrast import Dependence, all_pairs
from referee.statistics.power import Pilot, Variances, detectable, guessed, images_needed, measured, need, seeds_needed
from scipy import stats

from benchmarks.simulations import SETTINGS, Setting, holds


def pilot(variants: int, seeds: float, images: float = 0.0, test_images: int = 1) -> Pilot:
    """Return the pilot that knows the variances."""
    return Pilot(variants, test_images, *3 * [Variances(seeds, images)])


@pytest.mark.parametrize(("variants", "sd", "difference"), [(2, 0.5, 1.0), (3, 0.5, 1.0), (5, 0.5, 0.6)])
def test_four_of_five_studies_of_the_planned_size_settle_the_difference(
    variants: int, sd: float, difference: float
) -> None:
    seeds = seeds_needed(pilot(variants, sd**2), difference)
    assert seeds is not None
    rng = np.random.default_rng(0)
    settled = []
    for _ in range(150):
        scores = rng.normal(0, sd, (variants, seeds, 1))
        scores[0] += difference
        found = all_pairs(list(scores))
        settled.append(all(found[0, other].adjusted < 0.05 for other in range(1, variants)))
    assert 0.7 < np.mean(settled) < 0.92


@pytest.mark.parametrize("setting", SETTINGS[:5], ids=str)
def test_the_range_contains_the_truth_in_four_of_five_pilots(setting: Setting) -> None:
    """A short run of `benchmarks.simulations planning`, whose table shows 84 % and more."""
    rng = np.random.default_rng(1)
    truth = need(setting.truth, setting.difference / 100)
    inside, asked = [], []
    for _ in range(60):
        known = measured(setting.draw(rng, setting.pilot), setting.variants)
        assert known is not None
        answer = need(known, setting.difference / 100)
        inside.append(holds(answer, truth))
        asked.append(answer.images is not None)
    assert sum(inside) > stats.binom.ppf(0.01, 60, 0.84)
    assert not any(asked)  # seeds are enough in truth, so no pilot may send anybody for images


def test_the_settings_of_the_table_need_as_many_seeds_as_by_hand() -> None:
    # 3 variants, δ = 1 point: σ² = 0.25 + 0.048, I = 0.0139 points². t(0.975, 1.2 · 8) = 2.24: 2.24² · 0.0663 +
    # 1.96² · I = 0.386, √ = 0.62, and 1.17 √(0.0663 + I) = 0.33: 0.95 with 9 seeds, above 1 with 8.
    assert [need(setting.truth, setting.difference / 100).seeds.point for setting in SETTINGS[:5]] == [9, 9, 7, 53, 53]


def test_images_are_asked_for_only_where_seeds_cannot_help() -> None:
    # (z(97.5 %) + z(80 %))² · 0.1 / δ² with 0.1 the variance per image: 7,849 for 1 point.
    sparse = pilot(2, 1e-6, 0.1 / 1000, 1000)
    z = stats.norm.isf(0.025) + stats.norm.ppf(0.8)
    answer = need(sparse, 0.01)
    assert answer.images == (*3 * [math.ceil(0.1 * (z / 0.01) ** 2)],)
    # With twice as many, I = 0.1 / 15,698. Two seeds: √(6.0² · 1e-6 + 1.96² · I) + 0.84 √(1e-6 + I) = 0.0101.
    assert answer.seeds == (3, 3, 3)
    assert need(sparse, 0.05).images is None
    # Where the low end of what images do leaves room, seeds may help, and nobody is sent for images.
    unsure = sparse._replace(low=Variances(1e-6, 1e-6))
    assert images_needed(unsure, unsure.point, 0.01) > 1000
    assert need(unsure, 0.01) == ((None, need(unsure, 0.01).seeds.low, None), None)
    assert need(unsure, 0.01).seeds.low is not None


def test_more_seeds_detect_less() -> None:
    known = pilot(3, 0.25, 0.01, 1000)
    sizes = [detectable(known, n) for n in (2, 3, 5, 10, 100)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] > 0.1 * (stats.norm.isf(0.025) + 1.17)  # what the images leave


def test_a_stricter_level_takes_more_seeds() -> None:
    known = pilot(3, 0.25)
    watched = known._replace(level=lambda n: 0.0172)  # looks at 4 to 10 seeds
    assert seeds_needed(watched, 1.0) > seeds_needed(known, 1.0)


def test_the_variances_of_a_pilot_by_hand() -> None:
    # Accuracies .5 .75 and .25 .25: variances 1/32 and, where seeds agree, that of rounding, (1/4)²/12.
    a = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    b = np.array([[0, 0, 0, 1], [0, 0, 0, 1]], dtype=bool)
    known = measured([a, b], 2)
    assert known.point.seeds == pytest.approx((1 / 32 + 1 / 192) / 2)
    # Differences 1 1 ½ −1 with mean ⅜: squares (25 + 25 + 1 + 121)/64; minus the flips of a on the third image, ½ / 2.
    assert known.point.images == pytest.approx((172 / 64 - 0.25) / 4 / 4)
    chi = [stats.chi2.ppf(q, 2) for q in (0.92, 0.08)]
    assert known.low.seeds == pytest.approx(2 * known.point.seeds / chi[0])
    assert known.high.seeds == pytest.approx(2 * known.point.seeds / chi[1])
    assert known.low.images < known.point.images < known.high.images


def test_images_that_fail_together_tell_as_much_as_one() -> None:
    """Each image ten times, as a group, is what the image alone is: its variance, and how well that is known."""
    rng = np.random.default_rng(0)
    alone = [rng.random((3, 200)) < 0.8 for _ in range(2)]
    together = Dependence(np.repeat(np.arange(200), 10))
    known, grouped = measured(alone, 2), measured([np.repeat(y, 10, axis=1) for y in alone], 2, dependence=together)
    for end in ("low", "point", "high"):
        assert getattr(grouped, end).images == pytest.approx(getattr(known, end).images, rel=0.05)


def test_other_test_images_change_what_images_and_flips_do() -> None:
    rng = np.random.default_rng(0)
    draws = [rng.random((4, 1000)) < 0.9 for _ in range(2)]
    small, large = measured(draws, 2, test_images=500), measured(draws, 2, test_images=4000)
    assert small.test_images == 500
    assert small.point.images == pytest.approx(8 * large.point.images)
    # Seeds that only flip images: their variance is 0.09 / N.
    assert large.point.seeds < 0.5 * small.point.seeds
    assert measured(draws, 2, test_images=1000).point == measured(draws, 2).point


def test_one_seed_tells_no_variance() -> None:
    one, several = np.ones((1, 10), dtype=bool), np.ones((2, 10), dtype=bool)
    assert measured([one, one], 2) is None
    assert measured([one, several], 2) is None  # two variants tell what images do
    assert measured([several, several, one], 3) is not None
    assert measured([np.array([[0.1]]), np.array([[0.2], [0.3]])], 2) is not None  # no images


def test_a_guess_is_near_what_trained_models_do() -> None:
    """The benchmark's generator has w and N · I of trained models at 90 % accuracy: both lie within the guess."""
    guess, truth = guessed(3, 10_000, 0.9), SETTINGS[0].truth
    assert guess.low.images < truth.point.images < guess.high.images
    assert math.sqrt(guess.low.seeds) == pytest.approx(0.0022, rel=0.05)
    assert detectable(guess, 5, -1) < detectable(guess, 5) < detectable(guess, 5, 1)
