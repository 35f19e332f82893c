"""What a study needs without training: digits as images, experiments, and `fake_vitlab.py` for the runs."""

import dataclasses
import io
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_vitlab
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from referee.formats import SPACE
from sklearn.datasets import load_digits

from vitlab.config import merge
from vitlab.data.checking import content_of
from vitlab.data.folds import fold_numbers
from vitlab.evaluation.predictions import Predictions
from vitlab.experiment.experiment import Experiment
from vitlab.objectives.classification import ClassificationTask
from vitlab.studies import compare as comparing
from vitlab.studies.file import runs as grid
from vitlab.studies.file.format import refuse_unknown
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.registration import Outcome
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import Budget, Study
from vitlab.studies.results import Baselines, RunResult, StudyResults

FAKE_PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_vitlab.py")))
DEFAULTS = {
    "model": {"class_path": "vitlab.objectives.Supervised", "init_args": {"label_smoothing": 0.1, "lr": 0.2}},
    "trainer": {"max_epochs": 3, "accelerator": "cpu"},
}


class Digits:
    """The digits of scikit-learn in three splits."""

    num_classes = 10
    grouping: str | None = None

    def __init__(self) -> None:
        self.class_names = [str(digit) for digit in range(10)]
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        self.splits = dict(zip(("train", "val", "test"), np.split(order, [900, 1200]), strict=True))
        self.pixels = (data.images * 255 / 16).round().astype(np.uint8)[..., None]
        self.target = data.target.astype(np.int64)

    def facts(self) -> dict[str, Any]:
        splits = {
            split: {"images": len(rows), "digest": content_of(rows.tobytes())} for split, rows in self.splits.items()
        }
        return {"classes": self.class_names, "splits": splits}

    def image_names(self, split: str) -> list[str]:
        return [f"{split}/{index:05d}" for index in range(len(self.splits[split]))]

    def labels(self, split: str) -> np.ndarray:
        return self.target[self.splits[split]]

    def raw_images(self, split: str, indices: Sequence[int]) -> list[np.ndarray]:
        return list(self.pixels[self.splits[split][list(indices)]])

    def batches(self, split: str, device: object, every: int = 1) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        rows = self.splits[split][::every]
        yield [torch.from_numpy(self.pixels[rows]).permute(0, 3, 1, 2) / 255], torch.from_numpy(self.target[rows])

    def contents(self, split: str) -> np.ndarray:
        return np.array([content_of(image.tobytes()) for image in self.pixels[self.splits[split]]], np.uint64)

    def dataset(self, split: str) -> SimpleNamespace:
        nothing = np.zeros((len(self.splits[split]), 32), np.uint8)  # as of all small pictures
        return SimpleNamespace(contents=lambda: self.contents(split), dhashes=lambda: nothing)


class Fold(Digits):
    """The test images of `Digits` in folds: one tests, and the others train and validate."""

    def __init__(self, whole: Digits, init_args: dict[str, Any]) -> None:
        vars(self).update(vars(whole))
        self.whole = whole
        folds, pool = init_args["folds"], whole.splits["test"]
        numbers = fold_numbers(self.target[pool], folds["count"], init_args["split_seed"])
        self.of_fold, rest = np.flatnonzero(numbers == folds["test"] - 1), np.flatnonzero(numbers != folds["test"] - 1)
        self.splits = {"train": pool[rest[50:]], "val": pool[rest[:50]], "test": pool[self.of_fold]}

    def image_names(self, split: str) -> list[str]:
        names = self.whole.image_names("test")
        return [names[i] for i in self.of_fold] if split == "test" else super().image_names(split)


class FakeExperiment:
    """Fills in a few defaults, as `Experiment` fills in all of them."""

    def __init__(self, config: dict[str, Any], images: Digits) -> None:
        self.config = merge(DEFAULTS, config)
        init_args = self.config["data"].get("init_args", {})
        self.data = Fold(images, init_args) if init_args.get("folds") else images
        self.trainer, self.before, self.check = SimpleNamespace(callbacks=[]), dict, dict
        self.run = SimpleNamespace(probe=self.config.get("run", {}).get("probe"))
        if "backbone" not in self.config["model"]["init_args"]:
            refuse_unknown({"x": 1}, ("backbone",), "key of model")  # as vitlab refuses, not as code of a user fails
        self.objective = SimpleNamespace(task=TASKS.get(self.config["model"]["class_path"], ClassificationTask()))


TASKS: dict[str, Any] = {"fake.SelfSupervised": None}


def patch(images: Digits) -> None:
    """Let studies of `fake.Digits` plan with `FakeExperiment`; images replace those of an earlier call."""

    def experiment_of(config: dict[str, Any]) -> Any:
        fake = config["data"]["class_path"] == "fake.Digits"
        return FakeExperiment(config, images) if fake else Experiment(config)

    grid.experiment_of = experiment_of  # type: ignore[assignment]
    comparing.flops_per_image = lambda config: (
        22e6 * config["model"]["init_args"]["backbone"]["init_args"].get("size", 1)
    )


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `compare` run the stand-in for `fit` in this process, not in one for each run."""

    def fit(run: Run) -> str | None:
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                fake_vitlab.fit(run.config, overwrite=False)
        except SystemExit as stop:
            return f"exit status {stop.code}: {printed.getvalue().rpartition(chr(13))[2].strip()}"
        return None

    def run_all(runs: list[Run], *args: object) -> list[Outcome]:
        return [Outcome(run, fit(run)) for run in runs]

    monkeypatch.setattr("vitlab.studies.compare.run_all", run_all)


def variant(accuracy: float, **init_args: Any) -> dict[str, Any]:
    """Return the override of a variant with a planted accuracy."""
    backbone = {"class_path": "fake.Backbone", "init_args": {"accuracy": accuracy, **init_args}}
    return {"model": {"init_args": {"backbone": backbone}}}


def write_study(folder: Path, digits: Digits, **changes: Any) -> Path:
    """Write a study's files; `changes` replace its keys, \"absent\" removes one."""
    test_set = folder / "test_set.npz"
    np.savez(test_set, labels=digits.labels("test"), names=digits.image_names("test"), classes=10)
    base = {
        "seed_everything": 0,
        "data": {"class_path": "fake.Digits", "init_args": {"test_set": str(test_set), "batch_size": 32}},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    content = {
        "name": "Small study",
        "base": "base.yaml",
        "variants": {
            "ViT": variant(0.94, size=1.0),
            "Swin": variant(0.965, size=1.6),
            "Swin v2": variant(0.975, size=1.9),
        },
        "seeds": [1, 2, 3],
        "budget": {"epochs": 4},
        "may_differ": ["model.init_args.backbone"],
        "jobs": 2,
    }
    content = {key: value for key, value in {**content, **changes}.items() if value != "absent"}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def result(name: str, seed: int, correct: np.ndarray, labels: np.ndarray, **environment: str) -> RunResult:
    """Return a run of three classes that is right where `correct`, else predicts the next, with 90 % confidence."""
    guess = np.where(correct, labels, (labels + 1) % 3)
    logits = np.log(np.where(np.eye(3)[guess] == 1, 0.9, 0.05)).astype(np.float32)
    history = pd.DataFrame(
        {
            "epoch": [0, 0, 1, 1, 2],  # Lightning counts the test as an epoch more
            "train/loss": [1.0, 0.8, 0.6, 0.4, None],
            "val/top1": [None, 0.7, None, 0.8, None],
            "test/top1": [None, None, None, None, 0.8],
        }
    )
    images = [f"test/{index}" for index in range(len(labels))]
    config = {"data": {"class_path": "vitlab.data.Digits"}, "trainer": {"max_epochs": 2}}
    run = Run(name, seed, config, Path("runs/study") / name.lower())
    return RunResult(
        run, Predictions(images, labels, logits), {"seconds": 60.0, "images_seen": 2000}, environment, history
    )


def results(correct: dict[str, dict[int, np.ndarray]], **changes: Any) -> StudyResults:
    """Return a study's results from what each variant and seed gets right; three classes in turn, all labels known."""
    labels = np.arange(len(next(iter(next(iter(correct.values())).values())))) % 3
    seeds = sorted({seed for outcomes in correct.values() for seed in outcomes})
    described = Study(
        Path("study.yaml"),
        "Study",
        Path("base.yaml"),
        {name: {} for name in correct},
        seeds,
        Budget(epochs=2),
        [],
        None,
    )
    complete = StudyResults(
        study=described,
        differences=[],
        finished=[result(name, seed, c, labels) for name, by_seed in correct.items() for seed, c in by_seed.items()],
        failures=[],
        baselines=Baselines(0.34, "cat", 0.5, 100, 100, False),
        class_names=["cat", "dog", "eel"],
    )
    return dataclasses.replace(complete, **changes)


def measured(study: StudyResults, metric: Metric, values: dict[str, list[float]]) -> StudyResults:
    """Return results whose runs are ranked by a metric: of each variant a value for each seed from 0."""
    finished = [
        dataclasses.replace(
            each,
            run=dataclasses.replace(each.run, metric=metric),
            summary=each.summary | {"metrics": {metric.test: values[each.run.variant][each.run.seed]}},
        )
        for each in study.finished
    ]
    return dataclasses.replace(study, finished=finished, metric=metric)


def costing(study: StudyResults, **costs: dict[str, float]) -> StudyResults:
    """Return results whose runs logged these costs, by variant."""
    finished = [
        dataclasses.replace(each, summary=each.summary | {"cost": costs.get(each.run.variant, {})})
        for each in study.finished
    ]
    return dataclasses.replace(study, finished=finished)


def right(accuracy: float, images: int = 1000, seed: int = 0) -> np.ndarray:
    """Return outcomes with exactly this accuracy; the images that are hard are hard for every seed but a few."""
    rng = np.random.default_rng(seed)
    score = np.random.default_rng(99).random(images) + 0.2 * rng.random(images)
    chosen = np.zeros(images, dtype=bool)
    chosen[np.argsort(score)[: round(accuracy * images)]] = True
    return chosen


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until this is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def plain(text: str) -> str:
    return text.replace(SPACE, " ")


def seeds(accuracies: list[float], first: int = 0) -> dict[int, np.ndarray]:
    return {seed: right(accuracy, seed=first + seed) for seed, accuracy in enumerate(accuracies)}


SIX = [0.95, 0.951, 0.949, 0.95, 0.952, 0.95]
AHEAD = {"Swin": seeds(SIX), "ViT": seeds([accuracy - 0.05 for accuracy in SIX])}
