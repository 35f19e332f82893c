"""A table is read by the names that tools write, and a mistake gets one message with its place and its remedy."""

import numpy as np
import pandas as pd
import pytest
from conftest import simulated
from referee.outcomes import Reading, from_frame

from referee import judge


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
    """In the table that timm's validate.py writes."""
    rows = {"model": ["A", "B"], "img_size": 224, "top1": [81.2, 80.9], "top1_err": [18.8, 19.1]}
    table = from_frame(pd.DataFrame(rows))
    assert [run.outcomes[0] for run in table.runs] == pytest.approx([0.812, 0.809])
    assert table.metric.text(0.812, 1) == "81.2"


def test_a_column_that_is_asked_for_is_the_outcome_as_it_is() -> None:
    rows = {"variant": ["A", "B"], "prediction": "cat", "label": "cat", "nll": [0.31, 1.27], "top1": 1.0}
    table = from_frame(pd.DataFrame(rows), Reading(metric="nll", lower=True))
    assert [float(run.outcomes[0]) for run in table.runs] == [0.31, 1.27]
    assert (table.metric.name, table.metric.mode, table.metric.is_fraction) == ("nll", "min", False)


@pytest.mark.parametrize("logits", [[np.nan, 0.2], None])
def test_an_item_without_logits_is_no_error_of_class_0(logits: list[float] | None) -> None:
    rows = {"variant": ["A"] * 2, "item": ["x", "y"], "logits": [[0.9, 0.1], logits], "label": [0, 0]}
    with pytest.raises(
        ValueError, match=r"1.item of 2 without a score, like y of A, seed 1: more than 5 %\. Score them"
    ):
        from_frame(pd.DataFrame(rows))


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
        ({"model": ["A", "A"], "epoch": [1, 1], "accuracy": [0.6, 0.7]}, {}, "Row 1 is a second one of A, seed 1"),
        ({"variant": ["A"], "score": [1]}, {"columns": {"item": "image"}}, "--item image: there is no such column"),
    ],
)
def test_a_mistake_names_its_place_and_the_remedy(rows: dict, options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        from_frame(pd.DataFrame(rows), Reading(**options))


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
    assert "score: the column val_loss." in losses.notes
    rows = {"variant": ["a"] * 2, "item": [1, 2], "prediction": ["x", None], "label": ["x", "y"]}
    assert "1 rows have no prediction, and count as wrong." in from_frame(pd.DataFrame(rows)).notes


def test_per_cent_beside_fractions_are_refused() -> None:
    chance = pd.DataFrame({"variant": ["a", "b"], "seed": 1, "accuracy": [70.1, 0.1]})
    assert from_frame(chance).runs[1].outcomes[0] == pytest.approx(0.001)
    table = pd.DataFrame({"variant": ["a", "b"], "seed": 1, "accuracy": [90.1, 0.9]})
    with pytest.raises(ValueError, match=r"accuracy: b, seed 1 has at most 0\.9, a, seed 1 90\.1\. Give all"):
        from_frame(table)


def runs(column: str, write: object = "{}", **columns: object) -> pd.DataFrame:
    """Return the scores of B, which are the higher ones, and of A."""
    rng = np.random.default_rng(0)
    rows = [
        {"Model": name, "Seed": seed, column: str(write).format(middle + 0.01 * rng.random())} | columns
        for name, middle in (("A", 0.7), ("B", 0.8))
        for seed in range(5)
    ]
    return pd.DataFrame(rows)


HIGHER = ["accuracy", "test_accuracy", "eval_accuracy", "Test Acc (%)", "Top-1", "F1", "f1_macro", "test/auc", "mIoU",
          "R2", "score", "mean_test_score", "pass@1", "bleu", "map", "metrics/mAP50-95(B)"]  # fmt: skip
LOWER = ["loss", "val_loss", "Val Loss", "valLoss", "nll", "error", "top1_err", "mse", "MAE", "RMSE", "log_loss",
         "test/perplexity", "brier_score", "WER", "eer", "val_bpb", "latency_ms"]  # fmt: skip


def test_which_score_is_better_is_read_from_its_name_and_else_asked_for() -> None:
    for best, names in (("B", HIGHER), ("A", LOWER)):
        assert {name: judge(runs(name)).ranking[0].name for name in names} == dict.fromkeys(names, best)
    assert judge(runs("loss"), lower=False).ranking[0].name == "B"
    for name in ("value", "steps", "neg_mean_squared_error", "inception_score"):
        with pytest.raises(ValueError, match=f"{name}: is a higher or a lower score better. Give lower=False or"):
            judge(runs(name), score=name)
        assert judge(runs(name), score=name, lower=True).ranking[0].name == "A"


@pytest.mark.parametrize(("name", "write"), [("score", "{:.2%}"), ("Acc", "{:.2%}"), ("Acc (%)", "{:.2%}")])
def test_a_sign_of_per_cent_makes_fractions(name: str, write: str) -> None:
    outcomes = from_frame(runs(name, write))
    assert outcomes.metric.is_fraction
    assert outcomes.runs[0].outcomes[0] == pytest.approx(0.7064, abs=1e-4)


@pytest.mark.parametrize("classes", [["001", "002", "1"], ["TRUE", "FALSE", "UNSURE"], ["1e3", "1000", "x"],
                                     ["1.10", "1.1", "misc"], ["1.0", "1.1", "2.0"],
                                     ["NA", "None", "nan"], ["007", "7.0", "7"]])  # fmt: skip
def test_classes_items_and_variants_are_text(classes: list[str]) -> None:
    """Each class is right, wrong with the next, and right again: two thirds, whatever number it looks like."""
    rows = [
        {"variant": name, "seed": seed, "item": name + seed, "label": label, "prediction": guess}
        for seed in classes
        for name, label in zip(classes, classes, strict=True)
        for guess in [classes[0] if name == classes[1] else label]
    ]
    outcomes = from_frame(pd.DataFrame(rows))
    assert outcomes.variants == classes
    assert [run.seed for run in outcomes.of(classes[0])] == classes
    right = {name: bool(outcomes.of(name)[0].outcomes[0]) for name in classes}
    assert right == dict(zip(classes, [True, False, True], strict=True))


def test_composed_and_decomposed_names_are_one() -> None:
    table = pd.DataFrame({"item": ["e\u0301", "y"], "label": ["\u00e9", "z "], "prediction": ["e\u0301", "z"]})
    (run,) = from_frame(table).runs
    assert run.outcomes.tolist() == [True, True]
    assert "\u00e9" in run.items


@pytest.mark.parametrize("guesses", [["0", "1", "2"], ["Cat", "Dog", "Emu"]])
@pytest.mark.parametrize("all_runs", [True, False])
def test_predictions_of_other_names_than_the_labels_are_refused(guesses: list[str], all_runs: bool) -> None:
    table = pd.DataFrame({"variant": [*"aaaaaabbbbbb"], "item": [*"uvwxyz"] * 2, "label": ["cat", "dog", "emu"] * 4})
    table["prediction"] = table["label"]
    changed = np.arange(12) < (12 if all_runs else 6)
    table.loc[changed, "prediction"] = [*guesses * 4][: changed.sum()]
    with pytest.raises(ValueError, match=f"a predicts {', '.join(guesses)}, and labels are cat, dog, emu. Give both"):
        from_frame(table)


@pytest.mark.parametrize("value", [np.inf, -0.9, 101.0])
@pytest.mark.parametrize("name", ["accuracy", "Test Acc (%)", "correct"])
def test_what_is_no_fraction_is_refused_with_row_and_value(value: float, name: str) -> None:
    table = runs(name).astype({name: float})
    table.loc[3, name] = value
    with pytest.raises(ValueError, match=rf"Row 3: .* is {value:g}, not from 0 to 100\. Remove the row or mend it"):
        from_frame(table.assign(**{name: table[name] * (100 if "%" in name else 1)}))


def test_the_numbers_of_rows_are_no_items() -> None:
    """Unlike the numbers of items, which each run has from the first on."""
    for name in ("index", "id", "Index"):
        for first in (0, 1):
            table = runs("accuracy").assign(**{name: range(first, first + 10)})
            assert not from_frame(table).by_item
            assert any(note.startswith(f"{name}: ") for note in from_frame(table).notes)
            assert not from_frame(table.drop(columns="Seed")).by_item
    table = simulated({"A": 0.9, "B": 0.5}, seeds=2)
    assert from_frame(
        table.assign(index=range(len(table))).drop(columns="item"), Reading(columns={"item": "row"})
    ).by_item
    assert from_frame(table.assign(index=table["item"].str.slice(1)).drop(columns="item")).by_item


def test_rows_without_a_seed_are_runs_where_nothing_else_tells_them_apart() -> None:
    table = runs("accuracy").drop(columns="Seed")
    assert [run.seed for run in from_frame(table).of("B")] == [*"12345"]
    assert "No column names seeds: each row is taken to be a run." in from_frame(table).notes
    with pytest.raises(ValueError, match=r"Row 1 is a second one of A, seed 1, .*\n.*--seed row; else remove one"):
        from_frame(table.assign(split=[*"abcde"] * 2))


@pytest.mark.parametrize("name", ["step", "Epoch", "Wall time", "global_step"])
def test_steps_of_a_training_are_no_items(name: str) -> None:
    table = runs("accuracy").rename(columns={"Seed": name})
    remedy = "Give --last to take the last row of each run, or --seed row if each row is a run"
    twice = table.assign(**{name: 1})
    for columns in ({}, {"item": name}, {"item": "row"}):
        with pytest.raises(ValueError, match=rf"{name} counts steps of a training.*{remedy}".replace("remedy", remedy)):
            from_frame(table if columns else twice, Reading(columns=columns))
    outcomes = from_frame(table)
    assert [len(outcomes.of(each)) for each in "AB"] == [1, 1]
    assert outcomes.runs[0].outcomes[0] == pytest.approx(float(table["accuracy"][4]))
    assert f"{name}: along a training, of which the last value is taken." in outcomes.notes
    best = from_frame(table.sample(frac=1, random_state=0), Reading(pick="best"))
    assert best.runs[0].outcomes[0] in (
        table["accuracy"][:5].astype(float).max(),
        table["accuracy"][5:].astype(float).max(),
    )
    assert any("it flatters" in note for note in best.notes)
    assert len(from_frame(table, Reading(columns={"seed": "row"})).of("A")) == 5


def test_an_item_without_a_score_is_left_out_for_all() -> None:
    table = simulated({"A": 0.9, "B": 0.5}, seeds=2).astype({"correct": float})
    lacking = (table["variant"] == "A") & (table["seed"] == 2)
    table.loc[lacking & table["item"].isin(["i3", "i4"]), "correct"] = np.nan
    outcomes = from_frame(table)
    assert {len(run.items) for run in outcomes.runs} == {398}
    assert any("2\u00a0items of 400 without a score, like i3 of A, seed 2: left out" in note for note in outcomes.notes)
    table.loc[lacking & (table.groupby(["variant", "seed"]).cumcount() < 21), "correct"] = np.nan
    with pytest.raises(ValueError, match=r"21.items of 400 without a score.*more than 5 %"):
        from_frame(table)
    table.loc[lacking, "correct"] = np.nan
    outcomes = from_frame(table)
    assert [run.has_result for run in outcomes.runs] == [True, False, True, True]
    assert len(outcomes.of("A")) == 1  # a run without a score is there, and has no result


def test_messages_of_python_name_its_arguments() -> None:
    table = simulated({"A": 0.9, "B": 0.5}, seeds=2).rename(columns={"item": "picture", "correct": "fine"})
    with pytest.raises(ValueError, match=r'of variant, seed, picture, fine.* score="COLUMN", .* correct="COLUMN"'):
        judge(table)
    with pytest.raises(ValueError, match='item="COLUMN", or item="row"'):
        judge(table, correct="fine")
    assert judge(table, correct="fine", item="picture").verdict == "better"
    with pytest.raises(ValueError, match="itm is no kind of column"):
        judge(table, itm="picture")
