import math

import numpy as np
import pytest
from scipy import stats

from vitlab.studies.statistics import comparison as s


def test_sign_flips_by_hand() -> None:
    # Of the 16 sign flips of .1 .2 .3 .4, only none and all have a mean as large; of −.1 .2 .3 .4 four do: none, the
    # first alone, and their mirrors.
    assert s.sign_flip_p(np.array([0.1, 0.2, 0.3, 0.4])) == 2 / 16
    assert s.sign_flip_p(np.array([-0.1, 0.2, 0.3, 0.4])) == 4 / 16
    assert s.sign_flip_p(np.array([0.1, 0.2, 0, 0.3, 0, 0.4])) == 2 / 16  # zero has no sign
    assert s.sign_flip_p(np.zeros(6)) == 1


def test_flips_over_the_images_of_one_seed_are_mcnemars_test() -> None:
    only_a, only_b = np.arange(60) < 9, (np.arange(60) >= 9) & (np.arange(60) < 11)
    flips = s.sign_flip_p(only_a.astype(float) - only_b)
    assert flips == pytest.approx(s.mcnemar(only_a, only_b).p)


def test_sign_flips_alarm_at_their_nominal_level() -> None:
    # Eight seeds: 2⁸ flips, so the level below .05 is 12/256 = 4.7 %. 800 studies, binomial 99.9 % margins.
    draws = np.random.default_rng(0).normal(0, 1, (800, 8))
    alarms = sum(s.sign_flip_p(draw) < 0.05 for draw in draws)
    assert stats.binom.ppf(0.001, 800, 12 / 256) <= alarms <= stats.binom.ppf(0.999, 800, 12 / 256)


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
    assert comparison.seeds == 1
    assert comparison.difference.mean == 0.5
    assert math.isnan(comparison.p)  # one seed cannot tell
    assert s.compare({1: a[1]}, {2: b[2]}) is None


def test_effect_and_wins_by_hand() -> None:
    def right(*counts: int) -> dict[int, np.ndarray]:
        return {seed: np.arange(100) < count for seed, count in enumerate(counts)}

    comparison = s.compare(right(90, 92, 95, 91, 90, 90), right(88, 92, 90, 92, 89, 88))
    assert comparison is not None
    differences = [0.02, 0, 0.05, -0.01, 0.01, 0.02]
    assert comparison.difference.mean == pytest.approx(0.015)
    assert comparison.effect == pytest.approx(0.015 / np.std(differences, ddof=1))
    assert comparison.outperforms == pytest.approx((1 + 0.5 + 1 + 0 + 1 + 1) / 6)


def test_no_effect_is_told_of_a_few_seeds() -> None:
    # Two seeds that happen to agree made a d of 5.7. Below six the deviation it divides by is off by a third or more
    # (1/√(2(n − 1))), and no claim can be made.
    two = {seed: np.arange(100) < count for seed, count in enumerate((90, 91))}
    other = {seed: np.arange(100) < count for seed, count in enumerate((85, 85))}
    comparison = s.compare(two, other)
    assert comparison is not None
    assert math.isnan(comparison.effect)


def simulate(rng: np.random.Generator, seeds: int, gap: float, images: int = 300) -> s.Comparison:
    """Two variants with a strength each on every image; each seed moves a variant by about 0.4 points of accuracy.

    Drawn as a study draws them: images from a population, on which the variants are equally good if `gap` is 0, and
    seeds from a population.
    """
    difficulty = rng.normal(0, 1, images)
    taste = rng.normal(0, 0.5, (2, images))  # what one variant finds easier than the other

    def outcomes(variant: int, accuracy: float) -> dict[int, np.ndarray]:
        strength = stats.norm.ppf(accuracy + rng.normal(0, 0.004, seeds)) * math.sqrt(1 + 0.5**2 + 0.5**2)
        noise = rng.normal(0, 0.5, (seeds, images))
        return dict(enumerate(strength[:, None] > difficulty + taste[variant] + noise))

    comparison = s.compare(outcomes(0, 0.94 + gap), outcomes(1, 0.94), resamples=1000)
    assert comparison is not None
    return comparison


def alarms(seeds: int, studies: int) -> int:
    rng = np.random.default_rng(0)
    return sum(simulate(rng, seeds, gap=0).p < 0.05 for _ in range(studies))


def test_equal_variants_are_rarely_called_different() -> None:
    # At most 5 % false alarms, with the binomial's 99 % margin.
    assert alarms(seeds=6, studies=80) <= stats.binom.ppf(0.99, 80, 0.05)


@pytest.mark.slow
def test_false_alarms_stay_at_their_level_over_many_studies() -> None:
    assert alarms(seeds=8, studies=400) <= stats.binom.ppf(0.99, 400, 0.05)


def test_three_seeds_never_claim_anything() -> None:
    rng = np.random.default_rng(0)
    assert min(simulate(rng, 3, gap=0.05).p for _ in range(5)) >= 0.25


def test_three_points_are_seen_with_six_seeds() -> None:
    rng = np.random.default_rng(0)
    assert np.mean([simulate(rng, 6, gap=0.03, images=1500).p < 0.05 for _ in range(30)]) > 0.9
