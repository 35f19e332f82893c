"""The rule by hand, by Shaffer's table, by golden cases, and by simulated studies whose truth is known."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from referee.statistics import contrast as s
from referee.statistics import exact
from scipy import stats

from referee import judge

CASES = json.loads((Path(__file__).parent / "rule_cases.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["kind"] for case in CASES])
def test_the_pairs_of_a_table_are_those_of_another_implementation(case: dict[str, Any]) -> None:
    found = s.all_pairs([np.array(scores)[:, None] for scores in case["scores"]])
    for known in case["pairs"]:
        pair = found[tuple(known["pair"])]
        assert pair.mean == pytest.approx(known["lead"], abs=1e-5)
        values = [pair.seeds, pair.freedom, pair.p, pair.adjusted]
        assert values == pytest.approx([known[key] for key in ("variance", "freedom", "p", "adjusted")], rel=1e-4)


def test_a_closed_test_of_three_by_hand() -> None:
    # Ranks 0, 1, 2. All three equal: min(max(p01, p02), 3 min p) = min(.03, .03); each pair alone: its p.
    p = np.array([[1, 0.03, 0.01], [0.03, 1, 0.4], [0.01, 0.4, 1]])
    assert s.closed(p)[np.triu_indices(3, 1)] == pytest.approx([0.03, 0.03, 0.4])


def test_the_closed_test_is_that_of_every_partition_and_its_shortcut_is_never_smaller() -> None:
    def partitions(variants: list[int]) -> list[list[list[int]]]:
        if not variants:
            return [[]]
        first, *rest = variants
        found = []
        for each in partitions(rest):
            found += [[[first], *each], *([*each[:i], [first, *each[i]], *each[i + 1 :]] for i in range(len(each)))]
        return found

    rng = np.random.default_rng(0)
    for _ in range(20):
        p = np.triu(rng.random((6, 6)) ** 4, 1)
        p, adjusted = p + p.T, np.zeros((6, 6))
        for partition in partitions([*range(6)]):
            groups = sorted(sorted(group) for group in partition if len(group) > 1)
            inside = [(a, b) for group in groups for a in group for b in group if a < b]
            if not groups:
                continue
            pairs = [p[a, b] for a, b in inside]
            top = [p[a, b] for a, b in inside if a in groups[0]]
            q = min(max(p[groups[0][0], j] for j in groups[0][1:]), len(top) * min(top))
            if len(groups) > 1:
                q = min(q / 0.8, len(pairs) * min(pairs) / 0.2)
            for pair in inside:
                adjusted[pair] = max(adjusted[pair], min(q, 1))
        upper = np.triu_indices(6, 1)
        assert s.closed(p)[upper] == pytest.approx(adjusted[upper])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(s, "MOST_CLOSED", 5)
            assert (s.closed(p)[upper] >= adjusted[upper] - 1e-12).all()


def test_an_interval_agrees_with_the_word() -> None:
    """Better never stands beside an interval that holds 0, undecided never beside one that does not."""
    rng, words = np.random.default_rng(0), []
    for _ in range(60):
        rows = [(v, seed, rng.normal(2.5 * (v == "A"))) for v in "ABCD" for seed in range(4)]
        for pair in judge(pd.DataFrame(rows, columns=["variant", "seed", "score"])).pairs:
            assert (pair.interval.low >= 0) == pair.settled or pair.interval.low == 0
            assert pair.ends(1)[0].startswith("above") == (pair.settled and pair.interval.low == 0)
            words.append((pair.settled, pair.interval.low == 0))
    assert {*words} == {(True, True), (True, False), (False, False)}


def test_a_contrast_of_four_variants_is_their_interaction() -> None:
    rng = np.random.default_rng(0)
    drawn = [rng.normal(mean, 1, (5, 1)) for mean in (3, 1, 2, 1)]
    found = s.Cells(drawn).contrast({0: 1, 1: -1, 2: -1, 3: 1})
    assert found.mean == pytest.approx(drawn[0].mean() - drawn[1].mean() - drawn[2].mean() + drawn[3].mean())
    assert found.seeds >= sum(y.var(ddof=1) / 5 for y in drawn) - 1e-12


def test_groups_of_unlike_size_count_as_fewer() -> None:
    even, uneven = np.repeat(np.arange(20), 10), np.array([0] * 100 + [*range(1, 20)])
    assert s.Dependence(even).size(200) == pytest.approx(20)
    assert s.Dependence(uneven).size(119) == pytest.approx((100**2 + 19) ** 2 / (100**4 + 19))
    drawn = list(np.random.default_rng(0).random((2, 4, 300)) < 0.9)
    alone = s.all_pairs(drawn, dependence=s.Dependence(np.arange(300)))[0, 1]  # groups of one are none
    assert alone.images == pytest.approx(s.all_pairs(drawn)[0, 1].images)


def test_mcnemar_counts_the_smaller_binomial_tail_twice() -> None:
    a = np.array([True] * 9 + [False] * 2 + [True] * 50)
    b = np.array([False] * 9 + [True] * 2 + [True] * 50)
    tail = sum(math.comb(11, k) for k in range(3)) / 2**11  # P(X <= 2), X ~ Binomial(11, 1/2)
    assert exact.mcnemar(a, b) == pytest.approx(2 * tail)
    assert exact.mcnemar(a, a) == 1.0


def test_factors_are_shaffers() -> None:
    """Table 1 of Shaffer 1986 (all pairwise comparisons)."""
    assert s.shaffer_factors(2) == (1,)
    assert s.shaffer_factors(3) == (3, 1, 1)
    assert s.shaffer_factors(4) == (6, 3, 3, 3, 2, 1)
    assert s.shaffer_factors(5) == (10, 6, 6, 6, 6, 4, 4, 3, 2, 1)
    assert s.shaffer_factors(60)[:3] == (1770, 1711, 1711)  # all equal, or all but one; 966,467 partitions


@pytest.mark.parametrize("test", ["pooled", "paired"])
def test_scores_without_images_are_welchs_or_students_paired_test(test: str) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, (5, 1)), rng.normal(0, 3, (5, 1))
    difference = s.all_pairs([a, b], test)[0, 1]
    scores = a[:, 0], b[:, 0]
    oracle = stats.ttest_rel(*scores) if test == "paired" else stats.ttest_ind(*scores, equal_var=False)
    assert difference.p == pytest.approx(oracle.pvalue, rel=1e-6)
    assert difference.interval == pytest.approx((a.mean() - b.mean(), *oracle.confidence_interval(0.95)))


def test_the_variance_of_images_is_that_of_the_difference_without_flips() -> None:
    """Seeds that flip nothing: I is the variance over images of a − b, divided by their number."""
    rng = np.random.default_rng(0)
    a, b = rng.random(500) < 0.9, rng.random(500) < 0.8
    difference = s.all_pairs([np.stack([a] * 3), np.stack([b] * 3)])[0, 1]
    assert difference.images == pytest.approx((a.astype(float) - b).var(ddof=1) / 500)
    assert difference.seeds == pytest.approx(2 / 3 * (1 / 500) ** 2 / 12)  # the rounding of an accuracy


def test_images_in_groups_of_ten_that_are_told_are_rarely_called_different() -> None:
    # Each group of ten is as easy for a variant as a whole: untold, more than a tenth of these studies call one better.
    rng, groups, claimed = np.random.default_rng(0), np.repeat(np.arange(60), 10), np.zeros(2)
    for _ in range(400):
        easy = rng.normal(2, 1, 60)
        taste = [(easy + rng.normal(0, 0.8, 60))[groups] for _ in range(2)]
        drawn = [each + rng.logistic(0, 0.4, (5, 600)) > 0 for each in taste]
        claimed += [s.all_pairs(drawn, dependence=s.Dependence(told))[0, 1].adjusted < 0.05 for told in (None, groups)]
    untold, told = claimed / 400
    assert untold > 0.12
    assert told <= 0.06


def test_one_run_each_is_compared_over_groups_where_they_are_told() -> None:
    rng = np.random.default_rng(0)
    a, b, groups = rng.random(200) < 0.9, rng.random(200) < 0.8, np.repeat(np.arange(20), 10)
    means = (a.astype(float) - b).reshape(20, 10).mean(axis=1)
    found = s.Cells([a[None], b[None]], dependence=s.Dependence(groups)).pair(0, 1)
    assert found.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue)


def test_equal_scores_do_not_show_a_variance_of_zero() -> None:
    """Two seeds whose rounded losses agree: their variance is that of rounding, and settles nothing."""
    a, b, c = (np.array(rows)[:, None] for rows in ([3.28, 3.28], [3.29, 3.29], [3.27, 3.30]))
    assert s.over_seeds([a[:, 0], b[:, 0], c[:, 0]])[0] == pytest.approx(0.01**2 / 12)
    assert s.all_pairs([a, b, c])[0, 1].p > 0.01
    # Of paired seeds whose differences agree to the last digit nothing is known either: the least gap is 0.2.
    scores = [np.array([[90.1], [90.3]]), np.array([[89.9], [90.1]])]
    difference = s.all_pairs(scores, "paired")[0, 1]
    assert difference.seeds == pytest.approx(0.2**2 / 6 / 2)
    assert difference.p > 0.1
    folds, noise = np.array([0.7, 0.8, 0.9]), np.array([1e-4, -1e-4, 0.0])
    close = s.all_pairs([(folds + 0.01 + noise)[:, None], folds[:, None]], "paired")[0, 1]
    assert close.p < 0.001  # the lead is no rounding, although it is the least gap of two scores


def test_paired_images_leave_out_what_seeds_flip_together() -> None:
    """Both variants get the same images wrong in each seed, other ones from seed to seed: their difference is zero."""
    same = np.random.default_rng(0).random((5, 1000)) < 0.9
    difference = s.all_pairs([same, same], "paired")[0, 1]
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


def test_exact_needs_four_seeds() -> None:
    rng = np.random.default_rng(0)
    for variants, seeds, possible in ((2, 3, False), (2, 4, True), (3, 3, False), (3, 4, True)):
        far = [rng.normal(100 * variant, 1, (seeds, 1)) for variant in range(variants)]
        assert any(d.adjusted < 0.05 for d in s.all_pairs(far, "exact").values()) == possible


def test_a_difference_within_the_margin_is_recognized_by_two_one_sided_tests() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (10, 1)), rng.normal(0, 1, (10, 1))
    difference = s.all_pairs([a, b])[0, 1]
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
        alone += s.all_pairs(list(values.mean(axis=2, keepdims=True)))[0, 1].p < 0.05
        by_item += s.all_pairs(list(values))[0, 1].p < 0.05
    assert by_item <= stats.binom.ppf(0.999, studies, 0.05)
    assert alone > 0.1 * studies


def test_what_a_seed_changes_on_an_item_is_the_same_for_right_and_wrong_and_for_their_values() -> None:
    rng = np.random.default_rng(3)
    outcomes = [rng.random((4, 500)) < 0.8 for _ in range(3)]
    values = s.all_pairs([y.astype(float) for y in outcomes])
    for pair, difference in s.all_pairs(outcomes).items():
        assert values[pair].images == pytest.approx(difference.images)


def test_the_variance_over_images_grows_by_their_overlap() -> None:
    rng = np.random.default_rng(0)
    drawn = list(rng.random((3, 4, 300)) < rng.random((3, 1, 300)))
    for one, more in zip(
        *(s.all_pairs(drawn, dependence=s.Dependence(overlap=k)).values() for k in (1.0, 1.25)), strict=True
    ):
        assert one.images > 0
        assert more.images == pytest.approx(1.25 * one.images)
        assert more.seeds == one.seeds
        assert more.p > one.p


def test_variants_that_are_right_on_the_same_items_may_differ_on_others() -> None:
    """With 1 of 50 items, two points, the difference would be one item: nothing is equal to within a point."""
    right = np.ones((4, 50), dtype=bool)
    assert not s.all_pairs([right, right])[0, 1].is_within(0.01)
    assert not s.Cells([right[:1], right[:1]]).pair(0, 1).is_within(0.01)
    many = np.ones((4, 5000), dtype=bool)
    assert s.all_pairs([many, many])[0, 1].is_within(0.01)
