"""A claim of a paper: parsed, and judged in one word."""

from typing import Any

import pytest
from referee.claim import CONTRADICTED, EQUAL, OPEN, REPEATED, PairResult, parse_claim

CLAIM = {
    "sentence": "A is better than B.",
    "source": "Author 2020, table 1",
    "order": "A > B",
    "differs": "Digits instead of photographs.",
    "doubt": "More seeds.",
}


def parsed(order: Any, **changes: Any) -> Any:
    return parse_claim(CLAIM | {"order": order} | changes, ["A", "B", "C"], 0.5, False)


def found(better: str, worse: str, word: str) -> PairResult:
    return PairResult(better, worse, "settled" in word, "equal" in word)


def test_an_unknown_variant_of_a_claim_is_named_before_what_the_claim_lacks() -> None:
    with pytest.raises(ValueError, match=r"'D' is not a variant of the study\. There are A, B, C"):
        parse_claim({"order": "A > D"}, ["A", "B", "C"], 0.5, False)
    with pytest.raises(ValueError, match=r"claim: differs: None\. Expected a text"):
        parsed("A > B", differs=None)


@pytest.mark.parametrize(
    ("order", "pair", "word"),
    [
        ("A > B", found("A", "B", "settled"), REPEATED),
        ("A > B", found("B", "A", "settled"), CONTRADICTED),
        ("A > B", found("B", "A", "equal"), EQUAL),
        ("A > B", found("A", "B", "open"), OPEN),
        ("A >= B", found("B", "A", "equal"), REPEATED),
        ("A >= B", found("A", "B", "settled"), REPEATED),
        ("A >= B", found("B", "A", "settled"), CONTRADICTED),
        ("A = B", found("A", "B", "equal"), REPEATED),
        ("A = B", found("A", "B", "settled"), CONTRADICTED),
        ("A = B", found("A", "B", "open"), OPEN),
        # A difference that is beyond chance, and smaller than one that matters.
        ("A > B", found("A", "B", "settled, equal"), REPEATED),
        ("A > B", found("B", "A", "settled, equal"), EQUAL),
        ("A >= B", found("B", "A", "settled, equal"), REPEATED),
        ("A = B", found("A", "B", "settled, equal"), REPEATED),
    ],
)
def test_the_word_for_two_variants(order: str, pair: PairResult, word: str) -> None:
    assert parsed(order).word([pair]) == word


@pytest.mark.parametrize(
    ("second", "word"),
    [("settled", REPEATED), ("equal", EQUAL), ("open", OPEN)],
)
def test_the_word_for_an_order_is_that_of_its_weakest_pair(second: str, word: str) -> None:
    pairs = [found("A", "B", "settled"), found("B", "C", second), found("A", "C", "open")]
    assert parsed("A > B > C").word(pairs) == word


def test_one_pair_against_the_order_contradicts_it() -> None:
    assert parsed("A > B > C").word([found("C", "B", "settled")]) == CONTRADICTED


def test_variants_beside_each_other_are_not_compared() -> None:
    assert [(a, b) for a, _, b in parsed("A, B > C").relations] == [("A", "C"), ("B", "C")]
    assert [(a, b) for a, _, b in parsed(["A > B", "A > C"]).relations] == [("A", "B"), ("A", "C")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "A"}, "order: 'A'"),
        ({"order": "A > "}, "order: 'A > '"),
        ({"order": "A > D"}, "'D' is not a variant"),
        ({"published": {"D": 1.0}}, "'D' is not a variant"),
        ({"along": {"ratio": {"": {0.5: "D"}}}}, "'D' is not a variant"),
        ({"along": {"a": {}, "b": {}}}, "one axis"),
        ({"source": None}, "source: None"),
        ({"paper": "x"}, "paper"),
    ],
)
def test_a_claim_that_its_study_cannot_judge_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"claim|order") as refused:
        parse_claim(CLAIM | changes, ["A", "B", "C"], 0.5, False)
    assert message in str(refused.value)


def test_a_claim_needs_a_margin_and_an_order_of_three_a_fixed_list_of_seeds() -> None:
    with pytest.raises(ValueError, match="no `margin`"):
        parse_claim(CLAIM, ["A", "B"], None, False)
    with pytest.raises(ValueError, match="stops training those that lost"):
        parse_claim(CLAIM, ["A", "B", "C"], 0.5, True)
    assert parse_claim(CLAIM, ["A", "B"], 0.5, True) is not None
