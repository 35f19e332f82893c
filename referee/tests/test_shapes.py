"""The same runs in every shape that people hold them in give the same verdict, and what cannot be known is asked."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.tree import DecisionTreeClassifier

import referee

RNG = np.random.default_rng(0)
A, B = 0.80 + 0.01 * RNG.normal(size=5), 0.77 + 0.01 * RNG.normal(size=5)
RIGHT_A, RIGHT_B = RNG.random((4, 300)) < 0.9, RNG.random((4, 300)) < 0.7
LONG = pd.DataFrame({"model": ["a"] * 5 + ["b"] * 5, "seed": [*range(5)] * 2, "score": [*A, *B]})
OF_SCORES: dict[str, Callable[[], Any]] = {
    "arrays": lambda: {"a": A, "b": B},
    "lists": lambda: {"a": [*A], "b": tuple(B)},
    "tensors": lambda: {"a": torch.tensor(A), "b": torch.tensor(B)},
    "lists of tensors": lambda: {"a": [torch.tensor(x) for x in A], "b": [torch.tensor(x) for x in B]},
    "series": lambda: {"a": pd.Series(A), "b": pd.Series(B)},
    "by seed": lambda: {"a": dict(enumerate(A)), "b": dict(enumerate(B))},
    "by seed and metric": lambda: {"a": {i: {"score": x} for i, x in enumerate(A)},
                                   "b": {i: {"score": x} for i, x in enumerate(B)}},
    "by variant and seed": lambda: {(v, i): x for v, y in (("a", A), ("b", B)) for i, x in enumerate(y)},
    "records of variants": lambda: {"a": [{"score": x} for x in A], "b": [{"score": x} for x in B]},
    "records": lambda: LONG.to_dict("records"),
    "columns": lambda: LONG.to_dict("list"),
    "long": lambda: LONG,
    "polars": lambda: pl.DataFrame(LONG.to_dict("list")),
    "wide": lambda: pd.DataFrame({"a": A, "b": B}),
    "wide, polars": lambda: pl.DataFrame({"a": A, "b": B}),
    "wide, seeds as rows": lambda: LONG.pivot(index="seed", columns="model", values="score"),
    "wide, seeds as columns": lambda: LONG.pivot(index="model", columns="seed", values="score"),
    "wide, two levels": lambda: LONG.pivot(index="model", columns="seed", values=["score"]),
    "index of two levels": lambda: LONG.set_index(["model", "seed"])["score"],
    "runs as columns": lambda: pd.DataFrame({f"{v}_seed{i}": [x] for v, y in (("a", A), ("b", B))
                                             for i, x in enumerate(y)}),
    "named seeds, beside what is no score": lambda: LONG.pivot(index="model", columns="seed", values="score")
    .rename(columns="seed_{}".format).assign(mean=0.5, rank=[1, 2], fit_time=3.0),
    "split0_test_score": lambda: LONG.pivot(index="model", columns="seed", values="score")
    .rename(columns="run {}".format).reset_index(),
    "means": lambda: LONG.groupby("model")["score"].agg(["mean", "std", "count"]),
    "means of two levels": lambda: LONG.drop(columns="seed").groupby("model").agg(["mean", "sem", "count"]),
}  # fmt: skip
OF_ITEMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: {"a": RIGHT_A, "b": RIGHT_B},
    "numbers": lambda: {"a": RIGHT_A.astype(float).tolist(), "b": RIGHT_B.astype(int)},
    "tensors": lambda: {"a": torch.tensor(RIGHT_A), "b": torch.tensor(RIGHT_B)},
    "by seed": lambda: {"a": dict(enumerate(RIGHT_A)), "b": dict(enumerate(RIGHT_B))},
}


def ends(verdict: referee.Verdict) -> list[float]:
    return [*verdict.pairs[0].interval, verdict.pairs[0].p]


@pytest.mark.parametrize("name", OF_SCORES)
def test_scores_of_any_shape_are_judged_alike(name: str) -> None:
    verdict = referee.judge(OF_SCORES[name]())
    assert [variant.name for variant in verdict.ranking] == ["a", "b"]
    assert ends(verdict) == pytest.approx(ends(referee.judge(LONG)), rel=1e-9)
    first = verdict.outcomes.notes[0].replace("\u00a0", " ")
    assert first.startswith("2 variants")
    assert "5 seeds" in first
    assert first.endswith("score, higher is better")


@pytest.mark.parametrize("name", OF_ITEMS)
def test_outcomes_of_any_shape_are_judged_alike(name: str) -> None:
    rows = [(v, s, i, y[s, i]) for v, y in (("a", RIGHT_A), ("b", RIGHT_B)) for s in range(4) for i in range(300)]
    long = referee.judge(pd.DataFrame(rows, columns=["variant", "seed", "item", "correct"]))
    verdict = referee.judge(OF_ITEMS[name]())
    assert ends(verdict) == pytest.approx(ends(long), rel=1e-12)
    assert verdict.outcomes.notes[0].replace("\u00a0", " ").startswith("2 variants × 4 seeds × 300 items, accuracy")


def test_columns_that_are_no_outcomes_are_named() -> None:
    (note,) = referee.judge(OF_SCORES["named seeds, beside what is no score"]()).outcomes.notes[1:2]
    assert note == "mean, rank, fit_time: no outcomes, left out."


def test_a_single_dimension_is_items_or_scores_and_asked_for_where_it_may_be_both() -> None:
    assert referee.judge({"a": RIGHT_A[0], "b": RIGHT_B[0]}).outcomes.by_item
    losses = {"a": RNG.random(400), "b": RNG.random(400)}
    for values, what in ((losses, "items"), ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, "scores")):
        with pytest.raises(ValueError, match='Give what="scores" or what="items"'):
            referee.judge(values)
        assert referee.judge(values, what=what).outcomes.by_item == (what == "items")
    assert not referee.judge({"a": [1.0, 1.0], "b": [0.9, 0.8]}).outcomes.by_item  # not of two models
    with pytest.raises(ValueError, match=r"\(300, 4\) is \(seeds, items\)\? Give what"):
        referee.judge({"a": RIGHT_A.T, "b": RIGHT_B.T})
    with pytest.raises(ValueError, match=r"shape \(2, 5\): whose scores are these\? Give a dictionary by variant"):
        referee.judge(np.stack([A, B]))


def test_folds_of_scikit_learn_are_no_seeds() -> None:
    """By the corrected resampled t-test of Nadeau and Bengio (2003)."""
    x, y = load_iris(return_X_y=True)
    trees = {depth: DecisionTreeClassifier(max_depth=depth, random_state=0) for depth in (1, 2)}
    scores = {f"depth {depth}": cross_validate(tree, x, y, cv=5) for depth, tree in trees.items()}
    verdict = referee.judge(scores)
    d = scores["depth 2"]["test_score"] - scores["depth 1"]["test_score"]
    half = 2.776445105 * np.sqrt(d.var(ddof=1) * (1 / 5 + 1 / 4))  # Student's t, 4 degrees of freedom
    assert verdict.pairs[0].difference is not None
    assert verdict.pairs[0].difference.interval_at(0.05)[1:] == pytest.approx((d.mean() - half, d.mean() + half))
    assert "(5\u00a0folds each)" in verdict.sentence
    assert "seed" not in " ".join(map(str, verdict.checks))
    arrays = {name: each["test_score"] for name, each in scores.items()}
    assert ends(referee.judge(arrays, folds=5)) == pytest.approx(ends(verdict))
    grid = GridSearchCV(trees[1], {"max_depth": [1, 2]}, cv=5).fit(x, y).cv_results_
    assert ends(referee.judge(grid)) == pytest.approx(ends(verdict))
    assert ends(referee.judge(pd.DataFrame(grid))) == pytest.approx(ends(verdict))
