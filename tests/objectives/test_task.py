"""Objectives with other labels than one class per image: each brings its task."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, r2_score, roc_auc_score
from torchmetrics import Metric
from torchmetrics.classification import (
    MulticlassAUROC,
    MulticlassAveragePrecision,
    MulticlassCalibrationError,
    MultilabelAUROC,
)
from torchmetrics.wrappers import ClasswiseWrapper

from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import Digits
from vitlab.data.dataset import ImageDataset, Split
from vitlab.data.in_memory import TensorImages
from vitlab.evaluation.predictions import calibration_error, read_predictions
from vitlab.objectives import LabeledObjective, MultiLabel, Regression
from vitlab.objectives.classification import ClassificationTask
from vitlab.objectives.multi_label import MultiLabelTask
from vitlab.objectives.task import Task


class Digitwise(Digits):  # type: ignore[misc]  # final, but nothing else has images without a download
    """Digits, with ten numbers for each: 1 where a digit is at most the pictured one, else 0."""

    def read_splits(self) -> dict[Split, ImageDataset]:
        def numbers(images: ImageDataset) -> ImageDataset:
            assert isinstance(images, TensorImages)
            return TensorImages(images.images, np.tri(10, dtype=np.float32)[images.labels], images.names)

        return {split: numbers(images) for split, images in super().read_splits().items()}


SHORT: Config = {"max_epochs": 1, "limit_train_batches": 4, "limit_val_batches": 1, "limit_test_batches": 2}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "metric"), [("MultiLabel", "map"), ("Regression", "rmse")])
def test_other_labels_are_tested_predicted_exported_and_not_probed(
    name: str, metric: str, tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    here = "tests.objectives.test_task"
    changes: Config = {"model": {"class_path": name}, "data": {"class_path": f"{here}.Digitwise"}}
    path = tiny(changes | {"trainer": SHORT, "run": {"checkpoint": {"best": True}}}, "own")
    assert run("fit", ["--config", str(path)]) == 0
    directory = Path("runs/own/seed-0")
    metrics = json.loads((directory / "summary.json").read_text())["metrics"]
    assert {f"val/{metric}", f"test/{metric}"} <= metrics.keys()
    assert (directory / "checkpoints" / "best.ckpt").is_file()
    assert not (directory / "confusion.csv").exists()

    predictions = read_predictions(directory / "predictions.parquet")
    assert predictions.labels.shape == predictions.logits.shape == (120, 10)
    assert set(predictions.labels.ravel()) == {0, 1}
    if name == "MultiLabel":
        precision = average_precision_score(predictions.labels, predictions.logits, average="macro")
        assert metrics["test/map"] == pytest.approx(precision, rel=1e-4)
    else:
        assert metrics["test/r2"] == pytest.approx(r2_score(predictions.labels, predictions.logits), rel=1e-3)
        error = float(np.square(predictions.logits - predictions.labels).mean()) ** 0.5
        assert metrics["test/rmse"] == pytest.approx(error, rel=1e-4)

    config = str(directory / "config.yaml")
    assert run("test", ["--config", config]) == 0
    assert run("export", ["--config", config, "--format", "safetensors"]) == 0
    assert "accuracy of these weights is not known" in (directory / "export" / "README.md").read_text()
    capsys.readouterr()
    assert run("probe", ["--config", config]) == 2
    assert "one class per image" in capsys.readouterr().err

    picture = Image.fromarray(np.full((8, 8), 128, np.uint8))
    picture.save("picture.png")
    assert run("predict", ["--config", config, "--images", "picture.png", "--out", "seen"]) == 0
    table = pd.read_parquet("seen/predictions.parquet")
    assert table.columns.tolist() == ["file", *Digits().class_names]
    outputs = torch.tensor(table.iloc[:, 1:].to_numpy())
    task = {"MultiLabel": MultiLabel, "Regression": Regression}[name].task
    objective = LabeledObjective.load_from_checkpoint(directory / "checkpoints" / "last.ckpt").eval()  # type: ignore
    with torch.no_grad():
        expected = task.activate(objective(Digits().preprocessing(picture.convert("RGB"))[None]))
    torch.testing.assert_close(outputs, expected)


def test_calibration_and_f1_do_not_depend_on_the_batches() -> None:
    """torchmetrics takes a batch of logits that all lie in [0, 1] for probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(400, 2, generator=generator), torch.randint(2, (400,), generator=generator)
    ones = torch.randint(2, (400, 2), generator=generator).float()
    for task, target in ((ClassificationTask(), labels), (MultiLabelTask(), ones)):
        whole, single = (task.metrics(2, "") for _ in range(2))
        whole.update(logits, target)
        for row, wanted in zip(logits.split(1), target.split(1), strict=True):
            single.update(row, wanted)
        expected = whole.compute()
        assert {name: value.item() for name, value in single.compute().items()} == pytest.approx(
            {name: value.item() for name, value in expected.items()}, abs=1e-6
        )
    # In the highest bin 100 of 200 answers are certain, and nine tenths of these are right; 96 % is log(24) apart.
    certain = ClassificationTask().metrics(2, "")
    certain.update(torch.tensor([[50.0, 0.0]] * 100 + [[math.log(24), 0.0]] * 100), torch.tensor([1] * 10 + [0] * 190))
    assert certain.compute()["ece"].item() == pytest.approx((1 + 0.96) / 2 - 190 / 200, abs=1e-5)
    silent = ClassificationTask().metrics(10, "")
    silent.update(torch.zeros(400, 10), torch.arange(400) % 10)
    assert silent.compute()["ece"].item() == pytest.approx(0, abs=1e-6)  # a tenth sure, and right in a tenth


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        (MultiLabelTask(), np.array([[0.0, -1.0]]), "labels of 0 and 1, and the data have -1"),
        (MultiLabelTask(), np.array([[0.5, 1.0]]), r"labels of 0 and 1, and the data have 0\.5"),
        (ClassificationTask(), np.eye(3), "one class per image"),
        (ClassificationTask(), np.array([0.5]), "one class per image"),
    ],
)
def test_labels_that_the_metrics_cannot_take_are_refused(task: Task, labels: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        task.check(labels)


def test_a_metric_of_torchmetrics_takes_several_labels() -> None:
    logits, labels = torch.tensor([[2.0, -1.0], [-3.0, 0.5], [1.0, 4.0]]), torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    metric = MultiLabelTask().extra(MultilabelAUROC(2))
    metric.update(logits, labels)
    expected = np.mean([roc_auc_score(labels[:, k], logits[:, k]) for k in range(2)])
    assert float(metric.compute()) == pytest.approx(expected)


class Mine(MulticlassAUROC):
    """A metric of torchmetrics that a user has changed."""


class MeanOutput(Metric):
    """A metric of a user's own, which takes outputs as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, outputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.total += outputs.sum()

    def compute(self) -> torch.Tensor:
        return self.total


@pytest.mark.parametrize("scale", [0.3, 30.0])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_metric_of_torchmetrics_is_that_of_all_images_whatever_the_batches(classes: int, scale: float) -> None:
    """The oracles are scikit-learn and the calibration error of the report; half the logits lie in [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (120,), generator=generator)
    logits = 0.5 + scale * torch.randn(120, classes, generator=generator) + torch.eye(classes)[labels] * scale / 2
    p = logits.double().softmax(dim=1)
    auroc = np.mean([roc_auc_score(labels == k, p[:, k]) for k in range(classes)])
    expected = {
        MulticlassAUROC(classes): auroc,
        Mine(classes): auroc,
        MulticlassAveragePrecision(classes): np.mean(
            [average_precision_score(labels == k, p[:, k]) for k in range(classes)]
        ),
        MulticlassCalibrationError(classes): calibration_error(logits.numpy(), labels.numpy()),
        MeanOutput(): logits.sum(),
    }
    for metric, value in expected.items():
        for size in (1, 7, 120):
            task_metric = ClassificationTask().extra(metric.clone())
            for rows, wanted in zip(logits.split(size), labels.split(size), strict=True):
                task_metric.update(rows, wanted)
            assert float(task_metric.compute()) == pytest.approx(float(value), rel=1e-3), type(metric)
    by_class = ClassificationTask().extra(ClasswiseWrapper(MulticlassAUROC(classes, average=None)))
    by_class.update(logits, labels)
    assert np.mean([float(value) for value in by_class.compute().values()]) == pytest.approx(auroc, rel=1e-3)
