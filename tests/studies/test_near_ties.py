"""Near-ties by hand, and simulated studies of two equal architectures."""

import numpy as np
import pytest

from benchmarks.simulations import Images, accuracies, rules, simulate
from vitlab.studies.training.tuning import choose, error_of_difference

nan = np.nan


def test_variants_share_a_value_that_is_nearly_best_for_both() -> None:
    means = np.array([[0.90, 0.89, 0.80], [0.885, 0.90, 0.80]])
    assert choose(means, 0.0) == [0, 1]
    assert choose(means, 0.012) == [1, 1]  # 0.89 ties for the first, 0.885 does not for the second
    assert choose(means, 0.02) == [1, 1]  # both tie for both; 1.79 in sum beats 1.785
    assert choose(means, 0.5) == [1, 1]


def test_a_variant_that_needs_another_value_keeps_its_best() -> None:
    same = [0.90, 0.895, 0.80]
    assert choose(np.array([same, same, [0.80, 0.85, 0.90]]), 0.01) == [0, 0, 2]
    # Its near-tie is no reason to give up its best: nobody shares it.
    assert choose(np.array([[0.90, 0.80, 0.70], [0.70, 0.895, 0.90]]), 0.01) == [0, 2]


def test_equal_scores_tie_without_an_error_and_failed_values_are_never_taken() -> None:
    assert choose(np.array([[0.9, 0.9, 0.8], [0.8, 0.9, 0.9]]), 0.0) == [1, 1]
    assert choose(np.array([[nan, 0.8, 0.9], [0.9, nan, 0.89]]), 0.02) == [2, 2]
    assert choose(-np.array([[1.0, 2.0], [3.0, 2.0]]), 0.5) == [0, 1]  # where lower is better, the caller turns signs


def test_the_error_pools_the_variance_over_tuning_seeds() -> None:
    rng = np.random.default_rng(0)
    scores = 0.9 + 0.01 * rng.standard_normal((2, 3, 4))
    assert error_of_difference(scores) == pytest.approx(np.sqrt(2 * scores.var(axis=2, ddof=1).mean() / 4))
    scores[0, 1, 2] = nan
    left = np.delete(scores.reshape(6, 4), 1, axis=0)
    assert error_of_difference(scores) == pytest.approx(np.sqrt(2 * left.var(axis=1, ddof=1).mean() / 4))


def test_one_seed_has_the_error_of_the_validation_images_where_scores_are_accuracies() -> None:
    scores = np.full((2, 3, 1), 0.9)
    assert error_of_difference(scores, 5_000) == pytest.approx(np.sqrt(2 * 0.09 / 5_000))
    assert error_of_difference(scores) == 0.0
    assert error_of_difference(np.full((2, 3, 1), nan), 5_000) == 0.0


@pytest.mark.slow(edge=True)
def test_equal_architectures_stay_equal_though_tuned() -> None:
    """Own best values make them differ in over 15 % of studies; ties in at most 8, choices within seeds in 5.

    240 studies: the bounds have 1.65 standard errors of a share. `benchmarks.simulations` has 2,000 of each.
    """
    ways = rules(Images(2_000), Images(5_000))
    shares = {name: simulate(rule, accuracies(5, 0.5), 10, studies=240)[0] for name, rule in ways.items()}
    assert shares["own best, 1 seed"] > 0.15
    assert shares["within: study"] < 0.08
    assert shares["within: seed"] < 0.05 + 1.65 * np.sqrt(0.05 * 0.95 / 240)
