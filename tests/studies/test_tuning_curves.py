"""Curves of the best of k trials. The oracle of the bands is opda, the package of Lourie, Cho and He."""

from itertools import combinations

import numpy as np
import pytest
from opda.nonparametric import EmpiricalDistribution
from scipy import stats

from vitlab.studies.report.tuning_curves import held, lead, order_bands, sensitivity, tuning_curve


@pytest.mark.parametrize("n", [5, 24])
def test_the_band_is_opda_s(n: int) -> None:
    scores, k = np.random.default_rng(n).random(n), np.arange(1, n + 1)
    # In this process: opda's pool of forks can wait forever where other tests have left threads.
    lower, _, upper = EmpiricalDistribution.confidence_bands(
        scores, 0.95, a=0.0, b=1.0, generator=np.random.default_rng(0), method="ld_equal_tailed", n_jobs=1
    )
    curve = tuning_curve(scores, scores)
    np.testing.assert_array_equal(curve.low, upper.quantile_tuning_curve(k))
    np.testing.assert_array_equal(curve.high, lower.quantile_tuning_curve(k))


def test_the_mean_is_that_over_all_subsets() -> None:
    validation, test = np.array([0.3, 0.9, 0.5, 0.9, 0.6]), np.array([0.2, 0.5, 0.8, 0.9, 0.1])
    curve = tuning_curve(validation, test)
    for k in range(1, 6):
        subsets = [list(each) for each in combinations(range(5), k)]
        chosen = [each[int(np.argmax(validation[each]))] for each in subsets]
        assert curve.mean[k - 1] == pytest.approx(validation[chosen].mean())
        assert curve.test[k - 1] == pytest.approx(test[chosen].mean())


def test_the_ends_hold_together_in_95_per_cent_of_draws() -> None:
    low, high = order_bands(24)
    assert held(low, high) == pytest.approx(0.95, abs=1e-9)
    draws = np.sort(np.random.default_rng(0).random((20_000, 24)), axis=1)
    together = ((draws >= low) & (draws <= high)).all(axis=1).sum()
    assert stats.binom.ppf(0.0005, 20_000, 0.95) <= together <= stats.binom.ppf(0.9995, 20_000, 0.95)


def test_one_draw_lies_between_its_ends_by_their_distance() -> None:
    assert held(np.array([0.2]), np.array([0.9])) == pytest.approx(0.7)


def test_equal_variants_are_rarely_called_different_at_any_number_of_trials() -> None:
    """Of 150 searches; settings matter ten times as much as chance, as is usual."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(150):
        settings = rng.beta(5, 2, 24)
        a, b = (settings + 0.02 * rng.standard_normal(24) for _ in range(2))
        found += lead(a, b).p.min() < 0.05
    assert found <= stats.binom.ppf(0.999, 150, 0.05)


def test_a_lead_is_found_where_it_is() -> None:
    """The first is better wherever settings are bad, and the two are alike where they are good."""
    rng = np.random.default_rng(4)
    settings = np.sort(rng.random(24))
    found = lead(np.maximum(settings, 0.6) + 0.001 * rng.standard_normal(24), settings)
    assert found.p[0] < 0.05
    assert found.mean[0] > 0.1
    assert found.p[-1] > 0.05


def test_the_sensitivity_is_the_share_of_trials_near_the_best() -> None:
    assert sensitivity([0.9, 0.895, 0.7, 0.5], within=0.01) == 0.5
