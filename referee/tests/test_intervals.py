import math

import numpy as np
import pytest
from referee.statistics.contrast import Interval, sampling_margin, spread, t_interval
from scipy import stats

A = np.array([0.971, 0.968, 0.975, 0.966])


def test_interval_is_that_of_scipy() -> None:
    expected = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    interval = t_interval(A)
    assert interval.mean == pytest.approx(A.mean())
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_an_interval_of_accuracies_stays_possible() -> None:
    wide = t_interval([0.5, 0.9])
    assert wide.high > 1
    assert wide.within(0, 1) == Interval(wide.mean, 0, 1)
    assert math.isnan(t_interval([0.5]).within(0, 1).low)


def test_equal_values_are_no_proof_of_zero_spread() -> None:
    # Two seeds, both at 27 of 600 images. Closed form: s = step/√12, t(1 df, 97.5 %) = 12.7062.
    assert spread(np.array([0.045, 0.045]), 1 / 600) == pytest.approx(1 / 600 / math.sqrt(12))
    half = 12.7062 * (1 / 600) / math.sqrt(12) / math.sqrt(2)
    assert t_interval([0.045, 0.045], step=1 / 600) == pytest.approx((0.045, 0.045 - half, 0.045 + half), rel=1e-4)


def test_interval_covers_the_truth_at_its_level() -> None:
    # 2,000 draws of three normal seeds around 0: the 95 % interval holds 0 in 95 % of them, within 1.5 points.
    draws = np.random.default_rng(0).normal(0, 1, (2000, 3))
    covered = np.mean([interval.low <= 0 <= interval.high for interval in map(t_interval, draws)])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_margin_of_a_test_set_is_half_of_wilsons_interval() -> None:
    low, high = stats.binomtest(582, 600).proportion_ci(0.95, method="wilson")
    assert sampling_margin(0.97, 600) == pytest.approx((high - low) / 2)
