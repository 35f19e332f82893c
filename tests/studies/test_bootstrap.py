"""The crossed bootstrap against scipy's where the two must agree, against closed forms, and by its coverage."""

import numpy as np
import pytest
from scipy import stats

from vitlab.studies.statistics.bootstrap import (
    acceleration,
    bca_interval,
    bca_p,
    components,
    crossed_bootstrap,
    crossed_replicates,
)

RNG = np.random.default_rng(0)
SEEDS, IMAGES = RNG.exponential(1, 12), RNG.exponential(1, 40)  # skewed, so that bias and acceleration matter
ADDITIVE = SEEDS[:, None] + IMAGES  # a mean over rows and columns is then the sum of two independent samples' means


def mean_of_sum(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return x.mean(axis=axis) + y.mean(axis=axis)


@pytest.fixture(scope="module")
def of_scipy() -> stats._resampling.BootstrapResult:
    return stats.bootstrap((SEEDS, IMAGES), mean_of_sum, method="BCa", rng=np.random.default_rng(0))


def test_bca_is_that_of_scipy_for_two_samples(of_scipy: stats._resampling.BootstrapResult) -> None:
    interval = bca_interval(of_scipy.bootstrap_distribution, ADDITIVE.mean(), acceleration(ADDITIVE))
    assert interval[1:] == pytest.approx(tuple(of_scipy.confidence_interval), rel=1e-3)
    plain = np.quantile(of_scipy.bootstrap_distribution, [0.025, 0.975])
    assert np.abs(np.array(interval[1:]) - plain).max() > 0.03  # the corrections do something here


def test_drawing_kinds_of_columns_is_drawing_columns(of_scipy: stats._resampling.BootstrapResult) -> None:
    ours = crossed_replicates(ADDITIVE, 10_000)
    theirs = of_scipy.bootstrap_distribution
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.02)
    assert np.quantile(ours, [0.025, 0.5, 0.975]) == pytest.approx(np.quantile(theirs, [0.025, 0.5, 0.975]), abs=0.04)


def test_the_p_value_is_where_the_interval_ends_at_zero() -> None:
    replicates, a = crossed_replicates(ADDITIVE, 10_000), acceleration(ADDITIVE)
    low = bca_interval(replicates, ADDITIVE.mean(), a).low
    # Shifted by its lower end, the 95 % interval begins at zero.
    assert bca_p(replicates - low, ADDITIVE.mean() - low, a) == pytest.approx(0.05, abs=0.002)


def test_the_variance_splits_into_what_was_put_in() -> None:
    rng = np.random.default_rng(1)
    drawn = [
        components(2 * rng.normal(size=(8, 1)) + 3 * rng.normal(size=(1, 50)) + rng.normal(size=(8, 50)))
        for _ in range(400)
    ]
    assert np.mean([part.seed for part in drawn]) == pytest.approx(4, rel=0.1)
    assert np.mean([part.image for part in drawn]) == pytest.approx(9, rel=0.1)
    assert np.mean([part.rest for part in drawn]) == pytest.approx(1, rel=0.1)


def test_where_only_seeds_or_only_images_differ_the_interval_is_students() -> None:
    for cells, values in ((SEEDS[:, None] + np.zeros(40), SEEDS), (np.zeros((12, 1)) + IMAGES, IMAGES)):
        wanted = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        interval, _ = crossed_bootstrap(cells)
        assert interval.high - interval.low == pytest.approx(
            wanted.high - wanted.low, rel=0.1
        )  # BCa moves it to the right
        assert interval.low > wanted.low


def test_cells_that_are_all_the_same() -> None:
    assert crossed_bootstrap(np.zeros((3, 5))) == ((0, 0, 0), 1)
    interval, p = crossed_bootstrap(np.ones((3, 5)))
    assert interval == (1, 1, 1)
    assert p < 0.001


SOURCES = {"seeds": (1, 0.1, 0.1), "images": (0, 1, 0.1), "both": (0.05, 1, 1), "the rest": (0, 0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_the_interval_covers_the_truth_wherever_chance_comes_from(source: str) -> None:
    """At 95 %, less a binomial's 99.9 % margin over 200 studies; where only the rest varies it is too wide."""
    assert coverage(SOURCES[source], seeds=4, studies=200) >= stats.binom.ppf(0.001, 200, 0.95) / 200


def test_the_interval_covers_the_truth_and_is_not_idle() -> None:
    assert stats.binom.ppf(0.001, 80, 0.95) / 80 <= coverage(SOURCES["both"], seeds=4, studies=80) < 1


def coverage(source: tuple[float, float, float], seeds: int, studies: int) -> float:
    """Return how often the interval holds the truth, 0, with these standard deviations by seed, image and cell."""
    rng = np.random.default_rng(2)
    by_seed, by_image, rest = source
    held = 0
    for _ in range(studies):
        cells = (
            by_seed * rng.normal(size=(seeds, 1))
            + by_image * rng.normal(size=150)
            + rest * rng.normal(size=(seeds, 150))
        )
        held += not crossed_bootstrap(cells, resamples=1000)[0].excludes(0)
    return held / studies
