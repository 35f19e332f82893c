import math

import numpy as np
import pytest
from scipy import stats

from vitlab.studies import statistics as s

A = np.array([0.971, 0.968, 0.975, 0.966])
B = np.array([0.962, 0.965, 0.964, 0.963])


def test_interval_is_that_of_scipy() -> None:
    expected = stats.ttest_1samp(A, 0).confidence_interval(0.95)
    interval = s.t_interval(A)
    assert interval.mean == pytest.approx(A.mean())
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_a_single_value_has_no_interval_and_excludes_nothing() -> None:
    interval = s.t_interval([0.9])
    assert math.isnan(interval.low)
    assert not interval.excludes(0)


def test_an_interval_of_accuracies_stays_possible() -> None:
    wide = s.t_interval([0.5, 0.9])
    assert wide.high > 1
    assert wide.within(0, 1) == (wide.mean, 0, 1)
    assert math.isnan(s.t_interval([0.5]).within(0, 1).low)


def test_paired_test_is_that_of_scipy() -> None:
    expected = stats.ttest_rel(A, B)
    test = s.paired_t(A, B)
    assert test.p == pytest.approx(expected.pvalue)
    assert test.difference[1:] == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_equal_differences_are_no_proof_of_zero_spread() -> None:
    # Two seeds, both 27 of 600 images apart. Closed form: s = step/√12, t(1 df, 97.5 %) = 12.7062.
    test = s.paired_t([0.90, 0.91], [0.855, 0.865], step=1 / 600)
    half = 12.7062 * (1 / 600) / math.sqrt(12) / math.sqrt(2)
    assert test.difference == pytest.approx((0.045, 0.045 - half, 0.045 + half), rel=1e-4)
    assert test.p > 0


def test_mcnemar_counts_the_smaller_binomial_tail_twice() -> None:
    a = np.array([True] * 9 + [False] * 2 + [True] * 50)
    b = np.array([False] * 9 + [True] * 2 + [True] * 50)
    tail = sum(math.comb(11, k) for k in range(3)) / 2**11  # P(X <= 2), X ~ Binomial(11, 1/2)
    assert s.mcnemar(a, b) == s.McNemar(9, 2, pytest.approx(2 * tail))
    assert s.mcnemar(a, a) == s.McNemar(0, 0, 1.0)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .04 times 3, 2, 1 = .03 .04 .04; nan is no test and changes no factor.
    assert s.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    adjusted = s.holm([0.04, math.nan, 0.01])
    assert math.isnan(adjusted[1])
    assert [adjusted[0], adjusted[2]] == pytest.approx([0.04, 0.02])
    assert s.holm([]) == []


def test_only_shared_seeds_are_compared() -> None:
    a = {1: np.array([True, True]), 2: np.array([True, False])}
    b = {2: np.array([False, False]), 3: np.array([True, True])}
    comparison = s.compare(a, b)
    assert comparison is not None
    assert comparison.seeds.n == 1
    assert comparison.seeds.difference.mean == 0.5
    assert math.isnan(comparison.p)  # one seed cannot tell
    assert s.compare({1: a[1]}, {2: b[2]}) is None


def simulate(rng: np.random.Generator, seeds: int, gap: float) -> s.Comparison:
    """Two variants on 600 images of which some are harder; each seed moves a variant's accuracy by 0.4 points."""
    difficulty = rng.normal(0, 1, 600)

    def outcomes(accuracy: float) -> dict[int, np.ndarray]:
        drawn = {}
        for seed in range(seeds):
            reached = accuracy + rng.normal(0, 0.004)
            strength = stats.norm.ppf(reached) * math.sqrt(2)  # P(strength > difficulty + noise) = reached
            drawn[seed] = strength > difficulty + rng.normal(0, 1, 600)
        return drawn

    comparison = s.compare(outcomes(0.95 + gap), outcomes(0.95))
    assert comparison is not None
    return comparison


def test_equal_variants_are_rarely_called_different() -> None:
    # 400 simulated studies of two equal variants: at most 5 % false alarms, here with the binomial's 99 % margin.
    rng = np.random.default_rng(0)
    alarms = sum(simulate(rng, 3, gap=0).p < 0.05 for _ in range(400))
    assert alarms <= stats.binom.ppf(0.99, 400, 0.05)


def test_three_points_are_seen_with_six_seeds() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([simulate(rng, 6, gap=0.03).p < 0.05 for _ in range(50)]) > 0.9


def test_seed_interval_covers_the_truth_at_its_level() -> None:
    # 2,000 draws of three normal seeds around 0: the 95 % interval holds 0 in 95 % of them, within 1.5 points.
    draws = np.random.default_rng(0).normal(0, 1, (2000, 3))
    covered = np.mean([not s.t_interval(draw).excludes(0) for draw in draws])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_margin_of_a_test_set_is_half_of_wilsons_interval() -> None:
    # Wilson (1927): half-width z/(1 + z²/n) · √(p(1−p)/n + z²/4n²), z = 1.959964
    n, p, z = 600, 0.97, 1.959964
    expected = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert s.sampling_margin(p, n) == pytest.approx(expected, rel=1e-4)
