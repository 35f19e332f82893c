"""Curves over an axis: laws and crossings that are known because they were planted."""

import math

import numpy as np
import pytest
from referee.statistics.contrast import INDEPENDENT, Cells, Contrast, Dependence, Interval
from referee.statistics.curves import Crossing, crossing, law, log_ratio, power_law
from scipy import stats

from benchmarks.simulations import APART, CROSSING, TURNS, World, shares

STUDIES = 60


def gaps(first: np.ndarray, second: np.ndarray, error: float) -> list[Contrast]:
    known = Contrast(0.0, error**2, 0.0, 1e6)
    return [log_ratio(float(a), float(b), known) for a, b in zip(first, second, strict=True)]


def found(x: np.ndarray, first: tuple[float, float], second: tuple[float, float], error: float) -> Crossing | None:
    """Return the crossing of two power laws without a floor, seen with a standard error."""
    return crossing(x, gaps(law(x, 0.0, *first), law(x, 0.0, *second), error))


def test_lines_in_logarithms_cross_where_algebra_says() -> None:
    # 2 n^−0.4 = 20 n^−0.8 at n = 10^2.5
    at = found(np.array([50, 100, 200, 400, 800, 1600]), (2.0, 0.4), (20.0, 0.8), 1e-6)
    assert at is not None
    assert at.at == pytest.approx(10**2.5, rel=0.01)
    assert at.low == pytest.approx(10**2.5, rel=0.02)
    assert at.high == pytest.approx(10**2.5, rel=0.02)
    assert at.from_first


def test_the_interval_ends_where_the_difference_is_a_half_width_from_zero() -> None:
    # 2 n^−0.4 and 20 n^−0.8 are lines in ln n: their logarithms differ by 0.4 ln(n / 10^2.5). The cubic through four
    # points weighs the middle two by (t + 1)(t − 1)(t − 2) / 2 and −(t + 1) t (t − 2) / 2; the others are sure.
    x = np.array([10.0, 100.0, 1000.0, 10_000.0])
    sure, unsure = (gaps(law(x, 0.0, 2.0, 0.4), law(x, 0.0, 20.0, 0.8), error) for error in (1e-9, 0.005))
    at = crossing(x, [sure[0], *unsure[1:3], sure[3]])
    assert at is not None
    assert at.bracket == (100, 1000)
    logarithmic_means = 0.4026, 0.1011  # of 0.317 and 0.502, of 0.126 and 0.0796
    for end in (at.low, at.high):
        t = math.log10(end / 100)
        weights = (t + 1) * (t - 1) * (t - 2) / 2, -(t + 1) * t * (t - 2) / 2
        error = math.hypot(*(w * 0.005 / mean for w, mean in zip(weights, logarithmic_means, strict=True)))
        assert abs(0.4 * math.log(end / 10**2.5)) == pytest.approx(1.96 * error, rel=0.02)


def test_two_points_tell_nothing_of_what_lies_between() -> None:
    at = found(np.array([100.0, 1000.0]), (2.0, 0.4), (20.0, 0.8), 0.005)
    assert at is not None
    assert (at.low, at.at, at.high) == pytest.approx((100, 10**2.5, 1000))


def test_the_second_may_be_better_first() -> None:
    x = np.array([50, 100, 200, 400, 800, 1600])
    at = found(x, (20.0, 0.8), (2.0, 0.4), 1e-6)
    assert at is not None
    assert not at.from_first


@pytest.mark.parametrize("second", [(2.0, 0.4), (2.5, 0.4), (1.0, 0.3)], ids=["equal", "apart", "never in range"])
def test_curves_that_do_not_cross_have_no_crossing(second: tuple[float, float]) -> None:
    assert found(np.array([50, 100, 200, 400, 800, 1600]), (2.0, 0.4), second, 0.003) is None


def test_curves_that_cross_twice_have_no_single_crossing() -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    other = np.array([0.3, 0.1, 0.1, 0.1, 0.3])
    assert crossing(x, gaps(np.full(5, 0.2), other, 1e-4)) is None


# The truth is planted by `benchmarks.simulations`, which draws images, seeds and flips; 500 studies a world are in
# benchmarks/simulations.md. Limits: one in a thousand for a coverage of 93 %, and for claims in 5 %.
@pytest.mark.parametrize("world", [*CROSSING, *TURNS], ids=str)
def test_a_planted_crossing_lies_inside_its_interval(world: World) -> None:
    claimed, held = shares(world, STUDIES)
    count = round(STUDIES * claimed)
    assert count > STUDIES / 2
    assert held * count >= stats.binom.ppf(0.001, count, 0.93)


@pytest.mark.parametrize("world", APART, ids=str)
def test_no_crossing_is_claimed_where_none_is(world: World) -> None:
    assert world.planted is None
    assert shares(world, STUDIES)[0] * STUDIES <= stats.binom.ppf(0.999, STUDIES, 0.05)


def test_a_law_is_found_again() -> None:
    x = np.array([50, 100, 200, 400, 800, 1600])
    errors = law(x, 0.03, 3.0, 0.5)[:, None].repeat(3, axis=1)
    fitted = power_law(x, errors, np.zeros(6))
    assert fitted is not None
    assert fitted.floor.mean == pytest.approx(0.03, rel=1e-3)
    assert fitted.factor.mean == pytest.approx(3.0, rel=1e-3)
    assert fitted.rate.mean == pytest.approx(0.5, rel=1e-3)
    np.testing.assert_allclose(fitted.error(x), errors[:, 0], rtol=1e-4)


@pytest.mark.release
def test_the_interval_of_a_rate_holds_the_true_rate() -> None:
    """In about 95 % of 25 drawn studies."""
    x, rng = np.array([50, 100, 200, 400, 800, 1600]), np.random.default_rng(0)
    held = 0
    for _ in range(25):
        errors = law(x, 0.03, 3.0, 0.5)[:, None] * (1 + 0.05 * rng.standard_normal((6, 5)))
        fitted = power_law(x, errors, np.zeros(6))
        assert fitted is not None
        held += fitted.rate.low <= 0.5 <= fitted.rate.high
    assert held >= stats.binom.ppf(0.001, 25, 0.93)


@pytest.mark.release
@pytest.mark.parametrize(("bend", "share"), [(1.0, (0.0, 0.2)), (2.5, (0.7, 1.0))])
def test_places_off_a_power_law_are_told_from_those_on_it(bend: float, share: tuple[float, float]) -> None:
    """From 300 on, the error falls at the rate 0.5 times the bend: 1 is a law, rejected in 5 % of studies."""
    x, rng, rejected = np.array([50, 100, 200, 400, 800, 1600]), np.random.default_rng(0), 0
    for _ in range(25):
        errors = np.where(x < 300, law(x, 0, 3, 0.5), law(300, 0, 3, 0.5) * (x / 300) ** (-0.5 * bend))
        fitted = power_law(x, errors[:, None] * (1 + 0.05 * rng.standard_normal((6, 5))), np.zeros(6))
        assert fitted is not None
        rejected += fitted.p < 0.05
    assert share[0] <= rejected / 25 <= share[1]


def test_a_rate_beside_a_floor_that_may_be_0_has_no_upper_end() -> None:
    x, rng = np.array([50, 100, 200, 400, 800]), np.random.default_rng(0)
    none, some = (
        power_law(x, law(x, floor, 3.0, 0.8)[:, None] * (1 + 0.02 * rng.standard_normal((5, 5))), np.zeros(5))
        for floor in (0.0, 0.3)
    )
    assert none is not None
    assert some is not None
    assert (none.rate.high, some.rate.high < 5) == (np.inf, True)
    assert none.rate.low < 0.8


def test_three_points_have_no_law() -> None:
    assert power_law([1, 2, 4], np.ones((3, 2)), np.zeros(3)) is None
    assert power_law([1, 2, 4, 8], np.ones((4, 1)), np.zeros(4)) is None  # one seed says nothing of the spread


def test_images_of_which_each_is_there_twice_tell_no_more_than_once() -> None:
    outcomes = np.random.default_rng(0).random((4, 200)) < np.linspace(0.2, 0.9, 200)
    twice = np.repeat(outcomes, 2, axis=1)

    def interval(of_images: np.ndarray, dependence: Dependence = INDEPENDENT) -> Interval:
        return Cells([of_images], dependence=dependence).contrast({0: 1.0}).interval

    assert interval(twice, Dependence(np.arange(400) // 2)) == pytest.approx(interval(outcomes))
    assert interval(twice).low > interval(outcomes).low  # as if they were 400
