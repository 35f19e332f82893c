from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from vitlab.evaluation import predictions as p
from vitlab.evaluation.per_class import confusion, per_class, write_per_class
from vitlab.evaluation.predictions import Predictions, read_predictions, write_predictions

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 7, 400)
LOGITS = (RNG.normal(0, 1, (400, 7)) + 2 * np.eye(7)[LABELS]).astype(np.float32)


@pytest.mark.parametrize("ema", [None, LOGITS + 1])
def test_predictions_survive_the_file_bit_by_bit(tmp_path: Path, ema: np.ndarray | None) -> None:
    names = [f"test/größe {index}.png" for index in range(400)]
    write_predictions(tmp_path / "predictions.parquet", Predictions(names, LABELS, LOGITS, ema))
    read = read_predictions(tmp_path / "predictions.parquet")
    assert read.images == names
    np.testing.assert_array_equal(read.labels, LABELS)
    np.testing.assert_array_equal(read.logits, LOGITS)
    assert (read.logits_ema is None) == (ema is None)
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.parquet"]


def test_strata_survive_the_file(tmp_path: Path) -> None:
    strata = {"size in pixels": np.array(["8", "16"] * 200), "light": np.array(["day"] * 400)}
    names = [str(index) for index in range(400)]
    write_predictions(tmp_path / "predictions.parquet", Predictions(names, LABELS, LOGITS, strata=strata))
    read = read_predictions(tmp_path / "predictions.parquet").strata
    assert list(read) == list(strata)
    for name, values in strata.items():
        np.testing.assert_array_equal(read[name], values)


@pytest.mark.parametrize("k", [1, 3])
def test_accuracy_is_that_of_torchmetrics(k: int) -> None:
    expected = multiclass_accuracy(torch.tensor(LOGITS), torch.tensor(LABELS), 7, top_k=k, average="micro")
    assert p.top_k_accuracy(LOGITS, LABELS, k) == pytest.approx(expected.item())


def test_a_network_that_answers_the_same_for_all_classes_is_not_right() -> None:
    # Equal logits: only the first class counts as highest, so its share of the labels is the accuracy.
    assert p.top_k_accuracy(np.zeros_like(LOGITS), LABELS, 1) == (LABELS == 0).mean()


def test_likelihood_is_the_cross_entropy_of_torch() -> None:
    expected = torch.nn.functional.cross_entropy(torch.tensor(LOGITS).double(), torch.tensor(LABELS))
    assert p.negative_log_likelihood(LOGITS, LABELS) == pytest.approx(expected.item(), rel=1e-12)


def test_calibration_error_is_that_of_torchmetrics() -> None:
    expected = multiclass_calibration_error(torch.tensor(LOGITS).double(), torch.tensor(LABELS), 7, n_bins=15)
    assert p.calibration_error(LOGITS, LABELS) == pytest.approx(expected.item(), abs=1e-6)


WORDS, NUMBERS = [["cat", "dog"]] * 2, [[0.1, 0.2]] * 2


@pytest.mark.parametrize(
    "columns",
    [
        {"logits": WORDS},
        {"logits": ["cat", "dog"]},
        {"logits": [[0.1], [0.1, 0.2]]},
        {"logits": [0.1, 0.2]},
        {"logits": NUMBERS, "logits_ema": WORDS},
        {},
    ],
)
def test_logits_that_are_no_numbers_are_one_message(columns: dict[str, list[Any]], tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    pd.DataFrame({"image": ["a", "b"], "label": [0, 1], **columns}).to_parquet(file)
    with pytest.raises(ValueError, match=r"predictions\.parquet is damaged \(.*\)\. `test .*` writes it again"):
        read_predictions(file)


# Tables of classes, counted by hand and by scikit-learn


NAMES = ["daisy", "rose, red", "tulip"]


def of(said: list[int], labels: list[int], averaged: list[int] | None = None) -> Predictions:
    logits = [None if k is None else np.eye(3, dtype=np.float32)[k] for k in (said, averaged)]
    assert logits[0] is not None
    return Predictions([str(i) for i in range(len(labels))], np.array(labels), logits[0], logits[1])


def test_accuracy_by_class_is_the_share_of_its_images() -> None:
    table = per_class(of([0, 0, 1, 1], [0, 1, 1, 1], averaged=[0, 1, 1, 1]), NAMES)
    assert table["class"].tolist() == NAMES
    assert table.images.tolist() == [1, 3, 0]
    assert table.top1.tolist() == pytest.approx([1, 2 / 3, np.nan], nan_ok=True)
    assert table.top1_ema.tolist() == pytest.approx([1, 1, np.nan], nan_ok=True)
    assert "top1_ema" not in per_class(of([0], [0]), NAMES)


def test_accuracy_by_stratum_is_the_share_of_its_images(tmp_path: Path) -> None:
    strata = {"size in pixels": np.array(["16", "8", "8", "16", "8"])}
    predictions = replace(of([0, 0, 1, 2, 2], [0, 1, 1, 1, 2], averaged=[0, 1, 1, 1, 0]), strata=strata)
    write_per_class(tmp_path, predictions, NAMES)
    table = pd.read_csv(tmp_path / "per_stratum.csv")
    assert table.kind.tolist() == ["size in pixels"] * 2
    assert table.stratum.tolist() == [8, 16]  # by number, not by letter
    assert table.images.tolist() == [3, 2]
    assert table.top1.tolist() == pytest.approx([2 / 3, 1 / 2])
    assert table.top1_ema.tolist() == pytest.approx([2 / 3, 1])


def test_the_confusion_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    said, labels = rng.integers(3, size=(2, 50)).tolist()
    np.testing.assert_array_equal(confusion(of(said, labels), 3), confusion_matrix(labels, said))


def test_the_tables_are_read_back_with_their_names(tmp_path: Path) -> None:
    write_per_class(tmp_path, of([0, 0, 1], [0, 1, 1]), NAMES)
    counts = pd.read_csv(tmp_path / "confusion.csv", index_col=0)
    assert counts.loc["rose, red", "daisy"] == 1
    assert [*counts.index] == [*counts.columns] == NAMES
    assert pd.read_csv(tmp_path / "per_class.csv")["class"].tolist() == NAMES
