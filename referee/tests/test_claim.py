"""A claim of a paper: parsed, and judged in one word."""

from typing import Any

import numpy as np
import pytest
from referee.claim import CONTRADICTED, EQUAL, OPEN, REPEATED, Finding, Race, Relation, claimed, parse_claim
from referee.judging import of_trainings
from referee.metric import Metric
from referee.outcomes import Outcomes, Run
from referee.report.claim import draw_claim
from referee.report.drawing import WIDE
from referee.statistics.contrast import all_pairs
from referee.verdict import Design
from scipy import stats

CLAIM = {
    "sentence": "A is better than B.",
    "source": "Author 2020, table 1",
    "order": "A > B",
    "differs": "Digits instead of photographs.",
    "doubt": "More seeds.",
}


def parsed(order: Any, **changes: Any) -> Any:
    return parse_claim(CLAIM | {"order": order} | changes, ["A", "B", "C"], 0.5)


def judged(order: str, means: dict[str, float], margin: float = 1.0, seeds: int = 6) -> list[Finding]:
    """Judge an order by scores with a deviation of about 0.1 over seeds."""
    scores = 0.1 * np.random.default_rng(0).standard_normal((len(means), seeds, 1))
    race = Race(parsed(order).relations, margin)
    race.look(
        {name: dict(enumerate(mean + row)) for (name, mean), row in zip(means.items(), scores, strict=True)}, 0.05
    )
    return race.findings


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ("A > B", {2.0: REPEATED, 0.5: REPEATED, 0.0: EQUAL, -0.5: CONTRADICTED, -2.0: CONTRADICTED}),
        ("A >= B", {0.0: REPEATED, -0.5: REPEATED, -1.0: OPEN, -2.0: CONTRADICTED}),
        ("A = B", {0.5: REPEATED, -0.5: REPEATED, 1.0: OPEN, 2.0: CONTRADICTED, -2.0: CONTRADICTED}),
    ],
)
def test_the_word_for_two_variants(order: str, words: dict[float, str]) -> None:
    for lead, word in words.items():
        (finding,) = judged(order, {"A": lead, "B": 0.0})
        assert (finding.word, finding.is_small) == (word, abs(lead) < 1)


def test_a_relation_is_the_pair_of_the_study_alone() -> None:
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(mean, 0.1, (6, 1)) for name, mean in (("A", 0.15), ("B", 0.0), ("C", 9.0))}
    race = Race(parsed("A > B").relations, 1.0)
    race.look({name: dict(enumerate(row)) for name, row in rows.items()}, 0.05)
    assert race.findings[0].p == all_pairs([*rows.values()])[0, 1].p


def test_the_word_for_a_claim_is_that_of_its_weakest_relation() -> None:
    for better, worse in ((REPEATED, REPEATED), (REPEATED, EQUAL), (EQUAL, OPEN), (OPEN, CONTRADICTED)):
        assert claimed([Finding(better), Finding(worse)]) == worse


def test_what_speaks_against_a_claim_is_corrected_and_what_speaks_for_it_is_not() -> None:
    """A lead between 5 and 2.5 %: enough for one relation, not enough to contradict one of two."""
    scores = np.random.default_rng(1).standard_normal((4, 5))
    scores[1] += scores[0].mean() - scores[1].mean() - 1.75 * np.sqrt(scores[:2].var(axis=1, ddof=1).mean())
    p = stats.ttest_ind(scores[0], scores[1], equal_var=False).pvalue
    assert 0.025 < p < 0.045
    rows = {name: {seed: row[seed : seed + 1] for seed in range(5)} for name, row in zip("ABCD", scores, strict=True)}
    for order, word in ((("A", "B"), REPEATED), (("B", "A"), OPEN)):
        race = Race([Relation(order[0], ">", order[1]), Relation("C", ">", "D")], 0.1)
        race.look(rows, 0.05)
        assert race.findings[0].word == word


def test_variants_beside_each_other_are_not_compared() -> None:
    assert [(a, b) for a, _, b in parsed("A, B > C").relations] == [("A", "C"), ("B", "C")]
    assert [(a, b) for a, _, b in parsed(["A > B", "A > C"]).relations] == [("A", "B"), ("A", "C")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "A"}, "order: 'A'"),
        ({"order": "A > "}, "order: 'A > '"),
        ({"order": "A > D", "differs": None}, "'D' is not a variant of the study. There are A, B, C"),
        ({"published": {"D": 1.0}}, "'D' is not a variant"),
        ({"along": {"ratio": {"": {0.5: "D"}}}}, "'D' is not a variant"),
        ({"along": {"a": {}, "b": {}}}, "one axis"),
        ({"source": None}, "source: None. Expected a text"),
        ({"needs": "knn"}, "needs: 'knn'. Expected"),
        ({"paper": "x"}, "paper"),
    ],
)
def test_a_claim_that_its_study_cannot_judge_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"claim|order") as refused:
        parse_claim(CLAIM | changes, ["A", "B", "C"], 0.5)
    assert message in str(refused.value)
    with pytest.raises(ValueError, match="no `margin`"):
        parse_claim(CLAIM, ["A", "B"], None)


def test_a_precondition_holds_for_every_variant_of_the_order_beyond_chance() -> None:
    lines = {"chance": 0.1, "pixels": 0.5}
    scores = {"score": {"A": [0.6, 0.7], "B": [0.6, 0.62]}, "knn": {"A": [0.6, 0.61], "B": [0.4, 0.41]}}
    assert parsed("A > B", needs="all variants train").unmet(scores, lines | {"chance": -1.0}) == ()
    (unclear,) = parsed("A > B", needs="all variants train").unmet(scores, lines)
    assert unclear == "the score of A, 0.65, is not above 0.1 beyond chance"
    assert parsed("A > B", needs=["knn above 0.3"]).unmet(scores, lines) == ()
    (lower,) = parsed("A > B", needs=["knn above pixels"]).unmet(scores, lines)
    assert lower == "the knn of B, 0.405, is not above 0.5 beyond chance"
    (absent,) = parsed("A > C", needs="knn above 0.3").unmet(scores, lines)
    assert absent == "C has no knn"
    (no_line,) = parsed("A > B", needs="knn above pixels").unmet(scores, {})
    assert no_line == "pixels is not known"
    own = {"before": {"A": [0.5, 0.52], "B": [0.5, 0.5]}}  # of each run; B is above A's, and not above its own
    now = {"knn": {"A": [0.6, 0.61], "B": [0.45, 0.46]}}
    (worse,) = parsed("A > B", needs="knn above before").unmet(now, own)
    assert worse == "the knn of B, 0.455, is not above 0.5 beyond chance"
    (partly,) = parsed("A > B", needs="knn above before").unmet(scores, {"before": {"A": [0.5], "B": [0.5]}})
    assert partly == "before is not known"


def watched(means: dict[str, float], rng: np.random.Generator, order: str, looks: range) -> Any:
    names = {name: mean + rng.standard_normal(looks[-1]) for name, mean in means.items()}
    runs = [Run(name, str(s), score[s : s + 1]) for name, score in names.items() for s in range(looks[-1])]
    claim = parse_claim(CLAIM | {"order": order.split(";")}, list(means), 2.0)
    design = Design(margin=2.0, looks=tuple(looks), claim=claim)
    return of_trainings(Outcomes(runs, Metric("score", is_fraction=False), planned=list(means)), design)


def test_no_variant_leaves_while_a_relation_with_it_is_open() -> None:
    """B loses to A at the first look, and trains on until it is settled against C."""
    verdict = watched({"A": 20.0, "B": 0.0, "C": -1.0}, np.random.default_rng(0), "A > B > C", range(4, 21))
    first, last = verdict.relations
    assert verdict.watch.looks[0].seeds == {"A": 4, "B": 4, "C": 4}
    assert verdict.watch.looks[1].seeds == {"A": 4, "B": 5, "C": 5}
    assert first.word == REPEATED
    assert first.difference.mean == pytest.approx(20, abs=3)
    assert verdict.watch.stop in ("decided", "out of budget")
    assert last.word == verdict.word


# 2,000 and more of each, with 99 % bounds, are in docs/claims.md.
@pytest.mark.parametrize("order", ["A > B;C > D", "A > B > C", "A = B"])
def test_watched_claims_are_rarely_wrong(order: str) -> None:
    means = dict.fromkeys("ABCD" if "D" in order else "ABC", 0.0) | {"A": 2.0 if "=" in order else 0.0}
    rng = np.random.default_rng(0)
    words = [watched(means, rng, order, range(4, 11)).word for _ in range(100)]
    wrong = sum(word in (REPEATED, CONTRADICTED) for word in words)
    assert wrong <= stats.binom.ppf(0.999, 100, 0.05)


def test_the_figure_has_a_place_for_each_name_that_curves_share() -> None:
    scores = {"A": [0.9, 0.8], "B": [0.5, 0.6], "C": [0.7, 0.7]}
    runs = [Run(name, str(seed), np.array([score])) for name, each in scores.items() for seed, score in enumerate(each)]
    verdict = of_trainings(Outcomes(runs, Metric("accuracy", is_fraction=True), planned=list(scores)), Design())
    curves = {"ours": {"new": "A", "old": "B"}, "theirs": {"old": "C"}}
    axes = draw_claim(parsed("A > B", along={"data": curves}), verdict, WIDE).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["new", "old"]
    means = [(x, y) for line in axes.lines if line.get_gid() for x, y in [line.get_xydata()[0]]]  # type: ignore[index]
    assert np.array(sorted(means)) == pytest.approx(np.array([[0, 85], [1, 55], [1, 70]]))
