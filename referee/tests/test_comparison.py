"""The rule by hand, by Shaffer's table, and by simulated studies whose truth is known."""

import math

import numpy as np
import pytest
from referee.statistics import comparison as s
from referee.statistics import exact, items
from scipy import stats


def test_mcnemar_counts_the_smaller_binomial_tail_twice() -> None:
    a = np.array([True] * 9 + [False] * 2 + [True] * 50)
    b = np.array([False] * 9 + [True] * 2 + [True] * 50)
    tail = sum(math.comb(11, k) for k in range(3)) / 2**11  # P(X <= 2), X ~ Binomial(11, 1/2)
    assert items.mcnemar(a, b) == items.McNemar(9, 2, pytest.approx(2 * tail))
    assert items.mcnemar(a, a) == items.McNemar(0, 0, 1.0)


def test_factors_are_shaffers() -> None:
    """Table 1 of Shaffer 1986 (all pairwise comparisons)."""
    assert s.shaffer_factors(2) == (1,)
    assert s.shaffer_factors(3) == (3, 1, 1)
    assert s.shaffer_factors(4) == (6, 3, 3, 3, 2, 1)
    assert s.shaffer_factors(5) == (10, 6, 6, 6, 6, 4, 4, 3, 2, 1)
    assert s.shaffer_factors(60)[:3] == (1770, 1711, 1711)  # all equal, or all but one; 966,467 partitions


def test_the_step_down_by_hand() -> None:
    # Sorted .01 .02 .04 times 3, 1, 1 = .03 .02 .04; a later one is never smaller than an earlier one.
    assert s.step_down([0.04, 0.01, 0.02], 3) == pytest.approx([0.04, 0.03, 0.03])
    assert s.step_down([0.9, 0.8, 0.7], 3) == [1, 1, 1]


def test_scores_without_images_are_welchs_test() -> None:
    """With scores per seed and equal numbers of seeds, the rule for two variants is Welch's: scipy's is the oracle."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, (5, 1)), rng.normal(0, 3, (5, 1))
    difference = s.differences([a, b])[0, 1]
    oracle = stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False)
    assert difference.p == pytest.approx(oracle.pvalue, rel=1e-6)
    low, high = oracle.confidence_interval(0.95)
    assert difference.interval == pytest.approx((a.mean() - b.mean(), low, high))


def test_the_variance_of_images_is_that_of_the_difference_without_flips() -> None:
    """Seeds that flip nothing: I is the variance over images of a − b, divided by their number."""
    rng = np.random.default_rng(0)
    a, b = rng.random(500) < 0.9, rng.random(500) < 0.8
    difference = s.differences([np.stack([a] * 3), np.stack([b] * 3)])[0, 1]
    assert difference.images == pytest.approx((a.astype(float) - b).var(ddof=1) / 500)
    assert difference.seeds == pytest.approx(2 / 3 * (1 / 500) ** 2 / 12)  # the rounding of an accuracy


def study(
    rng: np.random.Generator, variants: int, seeds: int, images: int, lead: float, noise: str
) -> list[np.ndarray]:
    """Draw outcomes from populations of images and seeds; the first variant is ahead by `lead`, in logits.

    A seed moves a variant by about half a point of accuracy; one in ten fails with `fails`.
    """
    difficulty = rng.normal(2.5, 1.5, images)
    outcomes = []
    for variant in range(variants):
        taste = rng.normal(0, 0.5, images)  # what one variant finds easier than the others
        shift = rng.standard_t(3, seeds) / math.sqrt(3) if noise == "t" else rng.normal(0, 1, seeds)
        shift = 0.05 * (shift - (5 * (rng.random(seeds) < 0.1) if noise == "fails" else 0))
        flips = rng.logistic(0, 0.4, (seeds, images))
        outcomes.append(difficulty + taste + shift[:, None] + flips + lead * (variant == 0) > 0)
    return outcomes


def claims(variants: int, seeds: int, images: int, noise: str, studies: int) -> int:
    rng = np.random.default_rng(variants)
    return sum(
        any(d.adjusted < 0.05 for d in s.differences(study(rng, variants, seeds, images, 0, noise)).values())
        for _ in range(studies)
    )


@pytest.mark.parametrize("noise", ["normal", "t", "fails"])
@pytest.mark.parametrize(("variants", "seeds"), [(2, 3), (3, 3), (3, 5), (4, 3)])
def test_equal_variants_are_rarely_called_different(variants: int, seeds: int, noise: str) -> None:
    # At most 5 % of studies, with the binomial's 99.9 % margin.
    assert claims(variants, seeds, 500, noise, 150) <= stats.binom.ppf(0.999, 150, 0.05)


def test_a_lead_is_found_with_three_seeds() -> None:
    """A lead of about two points, seeds 0.5 apart, 5,000 images: tests by signs alone take seven seeds to say so."""
    rng = np.random.default_rng(0)
    studies = [s.differences(study(rng, 3, 3, 5000, 0.25, "normal")) for _ in range(60)]
    assert np.mean([d[0, 1].adjusted < 0.05 and d[0, 2].adjusted < 0.05 for d in studies]) > 0.7


def scores(rng: np.random.Generator, deviations: list[float], means: list[float], seeds: int) -> list[np.ndarray]:
    """Draw normal scores of each variant, (S, 1)."""
    return [rng.normal(mean, deviation, (seeds, 1)) for deviation, mean in zip(deviations, means, strict=True)]


def test_images_in_groups_of_ten_that_are_told_are_rarely_called_different() -> None:
    # Each group of ten is as easy for a variant as a whole: untold, more than a tenth of these studies call one better.
    rng, groups, claimed = np.random.default_rng(0), np.repeat(np.arange(60), 10), np.zeros(2)
    for _ in range(400):
        easy = rng.normal(2, 1, 60)
        taste = [(easy + rng.normal(0, 0.8, 60))[groups] for _ in range(2)]
        drawn = [each + rng.logistic(0, 0.4, (5, 600)) > 0 for each in taste]
        claimed += [
            s.differences(drawn, dependence=s.Dependence(told))[0, 1].adjusted < 0.05 for told in (None, groups)
        ]
    untold, told = claimed / 400
    assert untold > 0.12
    assert told <= 0.06


def test_one_run_each_is_compared_over_groups_where_they_are_told() -> None:
    rng = np.random.default_rng(0)
    a, b, groups = rng.random(200) < 0.9, rng.random(200) < 0.8, np.repeat(np.arange(20), 10)
    means = (a.astype(float) - b).reshape(20, 10).mean(axis=1)
    assert items.over_items(a, b, 1, s.Dependence(groups)).p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_groups_of_one_image_are_no_groups() -> None:
    drawn = study(np.random.default_rng(0), 2, 4, 300, 0, "normal")
    alone = s.differences(drawn, dependence=s.Dependence(np.arange(300)))[0, 1]
    assert alone.images == pytest.approx(s.differences(drawn)[0, 1].images)


def test_spreads_that_agree_are_pooled_and_others_are_welchs() -> None:
    """Of three variants: Fisher's pooled t where the extreme variances agree, else scipy's Welch for each pair."""
    rng = np.random.default_rng(1)
    alike, unlike = (scores(rng, deviations, [1, 0, 0], 5) for deviations in ([1, 1, 1], [1, 1, 9]))
    variances = [y.var(ddof=1) for y in alike]
    for (a, b), difference in s.differences(alike).items():
        error = math.sqrt(2 / 5 * max(np.mean(variances), (variances[a] + variances[b]) / 2))
        assert difference.alike
        assert difference.p == pytest.approx(2 * stats.t.sf(abs(difference.mean) / error, 12), rel=1e-6)
    for (a, b), difference in s.differences(unlike).items():
        oracle = stats.ttest_ind(unlike[a][:, 0], unlike[b][:, 0], equal_var=False)
        assert not difference.alike
        assert difference.p == pytest.approx(oracle.pvalue, rel=1e-6)


@pytest.mark.parametrize("wider", [2.0, 4.0])
def test_a_noisy_variant_that_ties_with_a_quiet_one_is_rarely_called_different(wider: float) -> None:
    # A third is far away, so that one hypothesis is left. The truth is 6.5 and 5.9 %, by 100,000 studies; variances
    # that are always pooled give 8.4 % at four times the deviation. Here are 2,000 studies, with 2.5 standard errors.
    rng = np.random.default_rng(4)
    studies = [s.differences(scores(rng, [wider, 1, 1], [0, 0, 1000], 4))[0, 1].adjusted < 0.05 for _ in range(2000)]
    assert np.mean(studies) <= 0.078


@pytest.mark.parametrize(("seeds", "least"), [(4, 0.75), (7, 0.99)])
def test_a_quiet_pair_is_found_beside_a_noisy_one(seeds: int, least: float) -> None:
    # The true rates are 78 and 99.6 %; with variances pooled over all four they were 9 and 24 %.
    rng = np.random.default_rng(0)
    studies = [s.differences(scores(rng, [1, 1, 4, 4], [3, 0, 100, 100], seeds))[0, 1] for _ in range(600)]
    assert np.mean([difference.adjusted < 0.05 for difference in studies]) >= least


def test_equal_scores_do_not_show_a_variance_of_zero() -> None:
    """Two seeds whose rounded losses agree: their variance is that of rounding, and settles nothing."""
    a, b, c = (np.array(rows)[:, None] for rows in ([3.28, 3.28], [3.29, 3.29], [3.27, 3.30]))
    assert s.over_seeds([a[:, 0], b[:, 0], c[:, 0]])[0] == pytest.approx(0.01**2 / 12)
    assert s.differences([a, b, c])[0, 1].p > 0.01


def test_paired_scores_are_students_paired_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, (6, 1)), rng.normal(0, 1, (6, 1))
    difference = s.differences([a, b], "paired")[0, 1]
    oracle = stats.ttest_rel(a[:, 0], b[:, 0])
    assert difference.p == pytest.approx(oracle.pvalue, rel=1e-6)
    assert difference.interval[1:] == pytest.approx(tuple(oracle.confidence_interval(0.95)))


def test_paired_images_leave_out_what_seeds_flip_together() -> None:
    """Both variants get the same images wrong in each seed, other ones from seed to seed: their difference is zero."""
    same = np.random.default_rng(0).random((5, 1000)) < 0.9
    difference = s.differences([same, same], "paired")[0, 1]
    assert difference.images == pytest.approx(1 / 1000**2)  # what one image decides, the least
    assert difference.seeds == pytest.approx(2 / 5 * (1 / 1000) ** 2 / 12)


def test_exact_p_values_are_those_of_all_regroupings() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 4), rng.normal(0, 1, 4)
    oracle = stats.permutation_test((a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater")
    assert exact.p_value(a, b, 0.0) == pytest.approx(oracle.pvalue)
    assert exact.p_value(a + 100, b, 0.0) == pytest.approx(2 / 70)
    assert exact.p_value(a + 100, b, 1.0) == pytest.approx(2 / 70, abs=1e-3)
    assert exact.p_value(a + 1, b, 1.0) > exact.p_value(a + 1, b, 0.0)


def test_the_exact_interval_has_the_differences_that_are_not_rejected() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 5), rng.normal(0, 1, 5)
    low, high = exact.interval(a, b, 0.01, 0.05)
    for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
        assert exact.p_value(a - inside, b, 0.01) > 0.05 - 1e-6
        assert exact.p_value(a - outside, b, 0.01) <= 0.05 + 1e-6
    assert low < a.mean() - b.mean() < high
    assert math.isnan(exact.interval(a, b, 0.0, 0.001)[0])  # 252 regroupings cannot tell


def test_exact_needs_four_seeds_for_two_variants_and_five_for_three() -> None:
    rng = np.random.default_rng(0)
    for variants, seeds, possible in ((2, 3, False), (2, 4, True), (3, 4, False), (3, 5, True)):
        far = [rng.normal(100 * variant, 1, (seeds, 1)) for variant in range(variants)]
        assert any(d.adjusted < 0.05 for d in s.differences(far, "exact").values()) == possible


def test_a_difference_within_the_margin_is_recognized_by_two_one_sided_tests() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (10, 1)), rng.normal(0, 1, (10, 1))
    difference = s.differences([a, b])[0, 1]
    # TOST by scipy: the difference is above −margin and below it, each by a one-sided Welch test at 5 %.
    for margin in np.linspace(0.1, 3, 30):
        above = stats.ttest_ind(a[:, 0] + margin, b[:, 0], equal_var=False, alternative="greater").pvalue
        below = stats.ttest_ind(a[:, 0] - margin, b[:, 0], equal_var=False, alternative="less").pvalue
        assert difference.is_within(margin) == bool(max(above, below) < 0.05)


@pytest.mark.parametrize("seeds", [3, 10])
def test_values_of_items_are_a_source_of_chance_too(seeds: int) -> None:
    # Squared errors of two equal variants, each with hard items of its own. By 1,000 studies, scores alone call them
    # different in 17 and 50 % with 3 and 10 seeds; values by item in 2.6 and 4.9 %.
    rng, alone, by_item, studies = np.random.default_rng(2), 0, 0, 300
    for _ in range(studies):
        common, of_seeds = rng.standard_normal(599), 0.01 * rng.standard_normal((2, seeds, 1))
        own, of_items = 0.5 * rng.standard_normal((2, 1, 599)), 0.5 * rng.standard_normal((2, seeds, 599))
        values = -((common + own + of_items + of_seeds) ** 2)
        alone += s.differences(list(values.mean(axis=2, keepdims=True)))[0, 1].p < 0.05
        by_item += s.differences(list(values))[0, 1].p < 0.05
    assert by_item <= stats.binom.ppf(0.999, studies, 0.05)
    assert alone > 0.1 * studies


def test_what_a_seed_changes_on_an_item_is_the_same_for_right_and_wrong_and_for_their_values() -> None:
    rng = np.random.default_rng(3)
    outcomes = [rng.random((4, 500)) < 0.8 for _ in range(3)]
    values = s.differences([y.astype(float) for y in outcomes])
    for pair, difference in s.differences(outcomes).items():
        assert values[pair].images == pytest.approx(difference.images)


def test_the_variance_over_images_grows_by_their_overlap() -> None:
    drawn = study(np.random.default_rng(0), 3, 4, 300, 0, "normal")
    for one, more in zip(
        *(s.differences(drawn, dependence=s.Dependence(overlap=k)).values() for k in (1.0, 1.25)), strict=True
    ):
        assert one.images > 0
        assert more.images == pytest.approx(1.25 * one.images)
        assert more.seeds == one.seeds
        assert more.p > one.p


def test_paired_scores_are_rounded_too() -> None:
    """Of two seeds whose differences agree to the last digit nothing is known: the least gap of two scores is 0.2."""
    scores = [np.array([[90.1], [90.3]]), np.array([[89.9], [90.1]])]
    difference = s.differences(scores, "paired")[0, 1]
    assert difference.seeds == pytest.approx(0.2**2 / 6 / 2)
    assert difference.p > 0.1
    folds, noise = np.array([0.7, 0.8, 0.9]), np.array([1e-4, -1e-4, 0.0])
    close = s.differences([(folds + 0.01 + noise)[:, None], folds[:, None]], "paired")[0, 1]
    assert close.p < 0.001  # the lead is no rounding, although it is the least gap of two scores


def test_variants_that_are_right_on_the_same_items_may_differ_on_others() -> None:
    """With 1 of 50 items, two points, the difference would be one item: nothing is equal to within a point."""
    right = np.ones((4, 50), dtype=bool)
    assert not s.differences([right, right])[0, 1].is_within(0.01)
    assert not items.over_items(right[0], right[0], 1).is_within(0.01)
    many = np.ones((4, 5000), dtype=bool)
    assert s.differences([many, many])[0, 1].is_within(0.01)
