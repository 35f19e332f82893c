"""The runs of a seed whose folds test each image once, as one result, and the images of all folds as one test set."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from vitlab.evaluation.predictions import Predictions
from vitlab.studies.file.fairness import Images, Split
from vitlab.studies.results.run import RunResult

FOLDS = "folds.csv"  # in a study's folder


class Pool:
    """The images of all folds, by name, as the test images of a study."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = parts
        self.class_names, self.num_classes = parts[0].class_names, parts[0].num_classes
        names = [name for part in parts for name in part.image_names("test")]
        places = [(part, index) for part in parts for index in range(len(part.image_names("test")))]
        self._order = np.argsort(names, kind="stable")
        self._places = [places[index] for index in self._order]
        self._names = [names[index] for index in self._order]

    def facts(self) -> dict[str, Any]:
        return {"classes": self.class_names, "splits": [part.facts()["splits"] for part in self.parts]}

    def image_names(self, split: Split) -> list[str]:
        """Return all names as those of the test images; for other splits those of the first fold."""
        return self._names if split == "test" else self.parts[0].image_names(split)

    def labels(self, split: Split) -> np.ndarray:
        if split != "test":
            return self.parts[0].labels(split)
        return np.concatenate([part.labels("test") for part in self.parts])[self._order]

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        if split != "test":
            return self.parts[0].raw_images(split, indices)
        places = [self._places[index] for index in indices]
        return [image for part, index in places for image in part.raw_images("test", [index])]

    def contents(self, split: Split) -> np.ndarray:
        if split != "test":
            return self.parts[0].contents(split)
        return np.concatenate([part.contents("test") for part in self.parts])[self._order]


def joined(parts: Sequence[RunResult]) -> RunResult:
    """Return the results of a seed's folds as those of one run, whose predictions are of all images by name."""
    tested = [part.predictions for part in parts]
    names = [name for each in tested for name in each.images]
    order = np.argsort(names, kind="stable")
    averaged = [each.logits_ema for each in tested if each.logits_ema is not None]
    predictions = Predictions(
        images=[names[index] for index in order],
        labels=np.concatenate([each.labels for each in tested])[order],
        logits=np.concatenate([each.logits for each in tested])[order],
        logits_ema=np.concatenate(averaged)[order] if len(averaged) == len(parts) else None,
        strata={
            kind: np.concatenate([each.strata[kind] for each in tested])[order]
            for kind in tested[0].strata
            if all(kind in each.strata for each in tested)
        },
    )
    digests = [str(part.data.get("splits", {}).get("train", {}).get("digest")) for part in parts]
    digest = hashlib.sha256("".join(digests).encode()).hexdigest()
    return RunResult(
        run=replace(parts[0].run, fold=None),
        predictions=predictions,
        summary=_summary(parts),
        environment=_environment(parts),
        history=pd.concat([part.history for part in parts], ignore_index=True),
        data=parts[0].data | {"splits": {"train": {"digest": digest}}},
        values=pd.concat([part.values for part in parts]),
        parts=tuple(parts),
    )


def _summary(parts: Sequence[RunResult]) -> dict[str, Any]:
    """Return what the runs took together, and the mean of each metric over the images that they test."""
    summaries = [part.summary for part in parts]
    metrics = pd.DataFrame([each.get("metrics", {}) for each in summaries]).dropna(axis=1)
    weights = [len(part.predictions.images) for part in parts]
    total = {key: sum(each.get(key, 0) for each in summaries) for key in ("seconds", "seconds_before", "images_seen")}
    least = min((each.get("epochs", part.run.epochs) for each, part in zip(summaries, parts, strict=True)))
    means = {str(name): float(np.average(values, weights=weights)) for name, values in metrics.items()}
    costs = pd.DataFrame([each.get("cost", {}) for each in summaries]).astype(float)
    cost = {str(name): float(value) for name, value in costs.mean().items()}
    if "train_joules" in cost:
        cost["train_joules"] *= len(parts)
    return {**total, "epochs": least, "metrics": means, "cost": cost}


def _environment(parts: Sequence[RunResult]) -> dict[str, Any]:
    """Return what the runs recorded, and all values of a text in which they differ."""
    known = [part.environment for part in parts]
    texts = {key: dict.fromkeys(each.get(key) for each in known) for key, text in known[0].items() if type(text) is str}
    return known[0] | {key: " and ".join(map(str, values)) for key, values in texts.items()}


def overlap_of(folds: int | None) -> float:
    """Return by how much the variance over images grows where these also train the models that test each other.

    With many seeds, Nadeau and Bengio (2003, Machine Learning 52, 239-281) have σ² · n_test / n_train where independent
    images would have σ² / folds. `benchmarks.simulations` has the rates of false claims with and without.
    """
    return folds / (folds - 1) if folds else 1.0


def table_of(finished: Sequence[RunResult]) -> pd.DataFrame:
    """Return the fold in which each image was tested, by image (rows) and seed."""
    folds = {}
    for result in finished:
        numbers = {name: part.run.fold for part in result.parts for name in part.predictions.images}
        folds[result.run.seed] = [numbers[name] for name in result.predictions.images]
    return pd.DataFrame(folds, index=finished[0].predictions.images)
