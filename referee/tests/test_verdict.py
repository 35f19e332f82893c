"""A verdict against known truths, and against scipy where a test is a standard one."""

import math

import numpy as np
import pandas as pd
import pytest
from conftest import simulated
from referee.outcomes import from_frame
from referee.plan import outlooks
from referee.report.differences import differences_section
from referee.statistics.contrast import all_pairs
from scipy import stats

import referee
from referee import judge


def test_a_settled_lead_is_named_with_its_interval(three: pd.DataFrame) -> None:
    verdict = judge(three)
    assert verdict.ranking[0].name == "A"
    assert verdict.verdict == "better"
    assert verdict.sentence.startswith("A is better than ")
    assert [pair.settled for pair in verdict.pairs] == [True, True, False]
    a_b = next(pair for pair in verdict.pairs if {pair.better.name, pair.worse.name} == {"A", "B"})
    assert a_b.interval.low < 0.8 * (0.95 - 0.7) < a_b.interval.high  # flips take a fifth of the true difference


def test_pairs_are_those_of_the_statistics(three: pd.DataFrame) -> None:
    verdict = judge(three)
    in_order = [verdict.ranking[i].outcomes for i in range(3)]
    expected = all_pairs(in_order)
    assert [pair.p for pair in verdict.pairs] == pytest.approx([each.adjusted for each in expected.values()])
    assert [pair.interval.low for pair in verdict.pairs[2:]] == pytest.approx([expected[1, 2].interval.low])


def test_one_seed_each_is_a_verdict_on_these_models_by_mcnemar() -> None:
    table = simulated({"A": 0.9, "B": 0.7}, seeds=1, items=200)
    verdict = judge(table)
    a, b = (table[table["variant"] == name]["correct"].to_numpy() for name in "AB")
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    assert verdict.pairs[0].p == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert verdict.of_models
    assert "nothing is known about another training" in verdict.record()["scope"]


def test_one_seed_each_with_scores_of_items_is_a_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.0, 1.0, 50), rng.normal(0.3, 1.0, 50)
    rows = [{"variant": v, "item": i, "score": x} for v, own in (("A", a), ("B", b)) for i, x in enumerate(own)]
    verdict = judge(pd.DataFrame(rows), metric="score", lower=True)
    assert verdict.ranking[0].name == ("A" if a.mean() < b.mean() else "B")
    assert verdict.pairs[0].p == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_the_lower_loss_is_better_where_a_variant_has_only_0_and_1() -> None:
    """A's mean is 0.85 and B's 0.5, by construction."""
    rng = np.random.default_rng(0)
    rows = [(v, s, i, float(loss)) for s in range(3) for v in "AB"
            for i, loss in enumerate(rng.permutation(100) < 85 if v == "A" else [0.5] * 100)]  # fmt: skip
    verdict = judge(pd.DataFrame(rows, columns=["variant", "seed", "item", "loss"]), metric="loss", lower=True)
    assert (verdict.ranking[0].name, verdict.verdict) == ("B", "better")
    assert verdict.pairs[0].lead == pytest.approx(0.35)


@pytest.mark.parametrize("lower", [False, True])
def test_published_fractions_need_the_size_of_the_test_set(lower: bool) -> None:
    table = pd.DataFrame({"model": ["A", "B"], "top1": [82.0, 81.0]})
    assert judge(table).pairs[0].difference is None
    verdict = judge(table, items=50_000, lower=lower)
    error = np.sqrt((0.82 * 0.18 + 0.81 * 0.19) / 50_000)
    assert verdict.pairs[0].p == pytest.approx(2 * stats.norm.sf(0.01 / error), rel=1e-6)
    assert (verdict.ranking[0].name, verdict.verdict) == ("B" if lower else "A", "better")
    assert verdict.pairs[0].lead == pytest.approx(0.01)


def test_a_score_between_right_and_wrong_changes_no_interval_by_more_than_itself() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"variant": v, "seed": s, "item": i, "correct": float(rng.random() < p)}
        for v, p in (("A", 0.9), ("B", 0.8))
        for s in range(3)
        for i in range(200)
    )
    whole, part = judge(rows), judge(rows.assign(correct=rows["correct"].where(rows.index != 7, 0.5)))
    for one, other in zip(whole.pairs[0].interval, part.pairs[0].interval, strict=True):
        assert one == pytest.approx(other, abs=0.005)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"margin": -1}, "margin -1: give 0 or more"),
        ({"margin": float("nan")}, "margin nan"),
        ({"looks": [5, 3]}, "looks 5 3: give rising numbers"),
        ({"looks": [1, 4]}, "looks 1 4"),
        ({"items": 1000}, "is for a table of one fraction a variant"),
    ],
)
def test_a_setting_that_fits_no_table_is_refused(three: pd.DataFrame, setting: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judge(three, **setting)


@pytest.mark.parametrize("setting", [{"lower": True}, {"metric": "nll"}])
def test_outcomes_have_their_metric(three: pd.DataFrame, setting: dict) -> None:
    with pytest.raises(ValueError, match="metric and lower: outcomes have theirs already"):
        judge(from_frame(three), **setting)


def test_equal_variants_are_equal_within_a_margin_and_never_better() -> None:
    table = simulated({"A": 0.8, "B": 0.8}, seeds=6, items=4_000)
    assert judge(table).verdict == "no winner yet"
    assert judge(table, margin=5.0).verdict == "equal"
    assert "Equal to within 5" in judge(table, margin=5.0).sentence


def test_the_interval_of_a_better_variant_ends_at_0() -> None:
    """A and B beside a third far behind: their pair is tested at 0.05, and its interval is at 0.03 / 3."""
    scores = {
        "A": [3.0, 1.8, 2.4, 1.2, 2.6],
        "B": [1.55, 1.15, 1.95, 0.15, 0.95],
        "C": [-40.2, -39.4, -41.0, -40.0, -40.4],
    }
    rows = [(name, seed, score) for name, own in scores.items() for seed, score in enumerate(own)]
    verdict = judge(pd.DataFrame(rows, columns=["variant", "seed", "score"]))
    pair = next(pair for pair in verdict.pairs if {pair.better.name, pair.worse.name} == {"A", "B"})
    assert pair.settled
    assert pair.difference is not None
    half = stats.t.isf(0.005, pair.difference.freedom) * math.sqrt(pair.difference.seeds)
    assert half > 1.05
    assert pair.interval == pytest.approx((1.05, 0, 1.05 + half))
    assert "(above 0 to 2." in verdict.sentence
    assert "[above 0," in str(differences_section(verdict, None))
    alone = verdict.alone(pair)
    assert 0 < alone.interval.low < alone.interval.high < pair.interval.high


def test_two_variants_alone_are_not_corrected_for_the_others() -> None:
    rng = np.random.default_rng(3)
    rows = [(v, s, rng.normal(2.2 * (v == "a"))) for v in "abcdef" for s in range(4)]
    verdict = judge(pd.DataFrame(rows, columns=["variant", "seed", "score"]))
    record = verdict.record()
    assert "seeds alone" in record["scope"]
    (pair,) = (pair for pair in record["pairs"] if {pair["better"], pair["worse"]} == {"a", "b"})
    assert pair["high_alone"] - pair["low_alone"] < pair["high"] - pair["low"]
    assert pair["p_alone"] <= pair["adjusted_p"]
    assert verdict.between("a", "b") == pair["alone"]


def test_the_lead_of_a_study_that_stopped_is_shown_without_its_luck() -> None:
    rows = [(v, s, 10 * (v == "a") + x) for v in "ab" for s, x in enumerate([0.3, -0.2, 0.1, 1.4])]
    table = pd.DataFrame(rows, columns=["variant", "seed", "score"])
    (pair,) = judge(table, looks=[4, 5]).pairs
    assert pair.difference is not None
    lead = pair.lead - pair.difference.seeds / pair.lead
    (text,) = (line for line in outlooks(judge(table, looks=[4, 5])) if "repetition" in line)
    assert f"a repetition would show about {lead:.2f} over b" in text
    assert not any("repetition" in line for line in outlooks(judge(table)))


def test_a_variant_with_a_single_seed_takes_no_verdict_from_the_others(three: pd.DataFrame) -> None:
    """The sentence leaves it out, and so do the word and the record, from which the exit status is."""
    scores = pd.DataFrame({"variant": [*"aaaabbbbc"], "seed": [1, 2, 3, 4, 1, 2, 3, 4, 1]})
    scores["accuracy"] = [0.9, 0.91, 0.9, 0.91, 0.5, 0.51, 0.5, 0.51, 0.2]
    verdict = judge(scores)
    assert "a is better than b" in verdict.sentence
    assert verdict.verdict == verdict.between("a") == "better"
    assert verdict.between("c") == "not comparable"


@pytest.mark.parametrize("failed", ["A", "B"])
def test_the_lead_of_a_variant_that_lost_a_run_is_not_comparable(three: pd.DataFrame, failed: str) -> None:
    three = three[three["variant"] != "C"].astype({"correct": float})
    three.loc[(three["variant"] == failed) & (three["seed"] == 2), "correct"] = np.nan
    verdict = judge(three)
    assert verdict.verdict == verdict.between("A", "B") == ("not comparable" if failed == "A" else "better")
    if failed == "A":
        text = "Not comparable: A failed in 1 of 4\u00a0seeds (2), so its lead is that of selected runs."
        assert str(verdict) == verdict.sentence == text
        assert not outlooks(verdict)


@pytest.mark.parametrize(
    ("margin", "word", "text"),
    [
        (5.0, "equal", "Equal to within 5 points: A and B"),
        (2.0, "better", "2.2); whether by more than 2 points is open ("),
        (1.0, "better", "A is better than B by 2.0 points (1.8 to 2.2) (6 seeds each; margin 1 point)."),
    ],
)
def test_a_margin_has_a_say_in_better(margin: float, word: str, text: str) -> None:
    scores = [0.8 + lead + 0.002 * z for lead in (0.02, 0) for z in (-1, 1, -0.5, 0.5, 0.8, -0.8)]
    table = pd.DataFrame({"variant": [*"AAAAAABBBBBB"], "seed": [*range(6)] * 2, "accuracy": scores})
    verdict = judge(table, margin=margin)
    _, low, high = verdict.pairs[0].interval
    assert verdict.verdict == word == ("equal" if high < margin / 100 else "better")
    assert (low > margin / 100) == ("open" not in text and word == "better")
    assert text in verdict.sentence.replace("\u00a0", " ")


def test_a_test_may_ask_for_a_better_model() -> None:
    old, new = [0.70, 0.71, 0.705, 0.702], [0.74, 0.75, 0.745, 0.742]
    referee.assert_better(new, old, what="scores")
    with pytest.raises(AssertionError, match=r"baseline is better than new by 0\.04"):
        referee.assert_better(old, new, what="scores")
    with pytest.raises(AssertionError, match=r"Equal to within 0\.09"):
        referee.assert_better(new, old, margin=0.09, what="scores")


def test_nothing_settles_runs_that_are_all_right() -> None:
    rows = [(v, s, i, 1) for v in "ab" for s in range(3) for i in range(60)]
    verdict = judge(pd.DataFrame(rows, columns=["variant", "seed", "item", "correct"]))
    assert verdict.verdict == "no winner yet"
    assert not outlooks(verdict)
