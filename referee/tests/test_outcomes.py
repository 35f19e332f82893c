"""A table is read by the names that tools write, and a mistake gets one message with its place and its remedy."""

import numpy as np
import pandas as pd
import pytest
from referee.outcomes import from_frame


@pytest.mark.parametrize(
    "columns",
    [
        {"correct": [1, 0]},
        {"correct": ["C", "I"]},
        {"is_correct": [True, False]},
        {"prediction": ["cat", "dog"], "label": ["cat", "cat"]},
        {"pred": [1.0, 0.0], "target": [1, 1]},  # pandas reads a column with an empty cell as floats
        {"logits": [[0.1, 0.9], [0.8, 0.1]], "label": [1, 1]},
        {"probs": ["[0.1, 0.9]", "[0.8, 0.2]"], "label": [1, 1]},  # as CSV has lists
        {"prediction": [True, False], "label": [1, 1]},
        {"prediction": [True, None], "label": [1, 1]},  # as CSV has true, false and an empty cell
        {"prediction": ["3.0", "x"], "label": [3, 3]},
    ],
    ids=lambda columns: "+".join(columns),
)
def test_whether_an_item_is_right_is_read_from_any_usual_columns(columns: dict[str, list]) -> None:
    table = from_frame(pd.DataFrame({"model": ["A", "A"], "filename": ["x", "y"], **columns}))
    (run,) = table.runs
    assert (run.variant, run.seed) == ("A", "1")
    assert run.items.tolist() == ["x", "y"]
    assert run.outcomes.dtype == bool
    assert run.outcomes.tolist() == [True, False]
    assert "variant: the column model." in table.notes  # a column that was recognized is told


def test_items_are_compared_in_the_order_of_their_names() -> None:
    rows = {"variant": ["A", "A", "B", "B"], "item": ["x", "y", "y", "x"], "correct": [1, 0, 0, 1]}
    a, b = from_frame(pd.DataFrame(rows)).runs
    assert (a.items == b.items).all()
    assert (a.outcomes == b.outcomes).all()


def test_a_score_in_per_cent_is_a_fraction() -> None:
    table = from_frame(pd.DataFrame({"model": ["A", "B"], "top1": [81.2, 80.9]}))
    assert [run.outcomes[0] for run in table.runs] == pytest.approx([0.812, 0.809])
    assert table.metric.text(0.812, 1) == "81.2"


def test_scores_that_are_no_fractions_stay_as_they_are() -> None:
    table = from_frame(pd.DataFrame({"variant": ["A", "B"], "nll": [0.31, 1.27]}), metric="nll", lower=True)
    assert [float(run.outcomes[0]) for run in table.runs] == [0.31, 1.27]
    assert table.metric.mode == "min"
    assert not table.metric.is_fraction


def test_a_column_that_is_asked_for_is_the_outcome() -> None:
    rows = {"variant": ["A"], "prediction": ["cat"], "label": ["cat"], "nll": [0.31], "top1": [1.0]}
    table = from_frame(pd.DataFrame(rows), metric="nll", lower=True)
    assert (float(table.runs[0].outcomes[0]), table.metric.name) == (0.31, "nll")


@pytest.mark.parametrize("logits", [[np.nan, 0.2], None])
def test_an_item_without_logits_is_no_error_of_class_0(logits: list[float] | None) -> None:
    rows = {"variant": ["A"] * 2, "item": ["x", "y"], "logits": [[0.9, 0.1], logits], "label": [0, 0]}
    (run,) = from_frame(pd.DataFrame(rows)).runs
    assert not run.is_finite


def test_a_run_without_a_score_is_there_and_has_no_result() -> None:
    table = from_frame(pd.DataFrame({"variant": ["A", "A"], "seed": [1, 2], "score": [0.5, np.nan]}))
    assert [run.is_finite for run in table.runs] == [True, False]
    assert len(table.of("A")) == 1


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ({"variant": ["A"], "words": ["x"]}, {}, "--score COLUMN"),
        ({"variant": ["A"], "prob": [0.9], "label": [1]}, {}, "column prob: 0.9 is no list .*--score COLUMN"),
        ({"variant": ["A", None], "score": [0.9, 0.8]}, {}, "Row 1 has no variant in column variant: 1 such rows"),
        ({"variant": ["A"], "pred": [None], "label": [None]}, {}, "Row 0 has no label"),
        ({"variant": ["A"], "top1": [0.9]}, {"metric": "nll"}, "--metric nll: there is no such column"),
        ({"variant": ["A"], "pred": [1], "label": [1]}, {"metric": "nll"}, "--metric nll: there is no such column"),
        ({"probs": [[0.1, 0.9]], "label": ["cat"]}, {}, "Row 0, column label: 'cat' is not a number"),
        ({"probs": [{"a": 0.1}], "label": [0]}, {}, "column probs: {'a': 0.1} is no list .*--score COLUMN"),
        ({"score": [1]}, {"columns": {"sed": "score"}}, "columns: sed is no kind of column. Give one of variant, seed"),
        ({"score": [1, 2], "x": ["a", None]}, {"columns": {"group": "x"}}, "Row 1 has no group in column x"),
        ({"score": [1, 2], "block": ["a", None]}, {}, "Row 1 has no block in column block"),
        ({"score": [1], "x": ["a"]}, {"columns": {"group": "x"}}, "--group x: its only value is a. Give a column of"),
        ({"variant": ["A"], "score": ["high"]}, {}, "Row 0, column score: 'high' is not a number"),
        ({"variant": ["A", "A"], "correct": [1, 0]}, {}, "Row 1 is a second one of A, seed 1"),
        ({"model": ["A", "A"], "epoch": [1, 2], "accuracy": [0.6, 0.7]}, {}, "Row 1 is a second one of A, seed 1"),
        ({"variant": ["A"], "score": [1]}, {"columns": {"item": "image"}}, "--item image: there is no such column"),
    ],
)
def test_a_mistake_names_its_place_and_the_remedy(rows: dict, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        from_frame(pd.DataFrame(rows), **options)


def test_a_score_that_is_told_may_have_any_name() -> None:
    """As in examples/README.md: --score result --metric AUC."""
    table = from_frame(pd.DataFrame({"variant": ["A"], "result": [0.9]}), "AUC", columns={"score": "result"})
    assert (table.metric.name, float(table.runs[0].outcomes[0])) == ("AUC", 0.9)


def test_rows_are_items_where_that_is_asked() -> None:
    table = from_frame(pd.DataFrame({"variant": ["A", "A"], "correct": [1, 0]}), columns={"item": "row"})
    assert table.runs[0].items.tolist() == ["0", "1"]


def test_a_column_group_is_taken_and_one_group_is_none() -> None:
    rows = {"variant": ["a"] * 4, "seed": [1] * 4, "item": [*"wxyz"], "correct": [1, 0, 1, 1]}
    grouped = from_frame(pd.DataFrame({**rows, "group": [1, 1, 2, 2]})).groups
    assert grouped is not None
    assert grouped.tolist() == [0, 0, 1, 1]
    assert from_frame(pd.DataFrame({**rows, "group": 1})).groups is None
    both = pd.DataFrame(
        {"variant": [*"aabb"], "item": [1, 2, 1, 2], "correct": 1, "group": ["ours"] * 2 + ["theirs"] * 2}
    )
    assert from_frame(both).groups is None  # of variants, not of items


def test_what_is_taken_for_granted_is_noted() -> None:
    losses = from_frame(pd.DataFrame({"variant": ["a", "b"], "seed": 1, "val_loss": [0.3, 0.4]}))
    assert "val_loss: higher is better; if not, give --lower." in losses.notes
    rows = {"variant": ["a"] * 2, "item": [1, 2], "prediction": ["x", None], "label": ["x", "y"]}
    assert "1 rows have no prediction, and count as wrong." in from_frame(pd.DataFrame(rows)).notes


def test_per_cent_beside_fractions_are_refused() -> None:
    chance = pd.DataFrame({"variant": ["a", "b"], "seed": 1, "accuracy": [70.1, 0.1]})
    assert from_frame(chance).runs[1].outcomes[0] == pytest.approx(0.001)
    table = pd.DataFrame({"variant": ["a", "b"], "seed": 1, "accuracy": [90.1, 0.9]})
    with pytest.raises(ValueError, match=r"accuracy: b has at most 0\.9, a 90\.1\. Give all as fractions"):
        from_frame(table)
