"""Two baselines that every model must beat: predicting the most frequent class, and k-NN on raw pixels.

Reports mark the runs that do not exceed them, which would otherwise go unnoticed.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config
from vitlab.evaluation.classifiers import classify_pixels
from vitlab.studies.file.images import Images


@dataclass(frozen=True)
class Baselines:
    """Accuracies on the test split, and how they were measured."""

    majority: float
    majority_class: str
    knn: float
    bank_images: int
    test_images: int
    subsampled: bool
    folds: int = 0  # over which the accuracies are averaged

    @property
    def lines(self) -> dict[str, float]:
        """The accuracy of each baseline."""
        return {"majority class": self.majority, "k-NN on raw pixels": self.knn}

    def describe_knn(self) -> str:
        """Describe how k-NN was run."""
        each = f" of each of {self.folds} folds" if self.folds else ""
        part = "of the " if self.subsampled else ""
        return f"as k-NN tests features, k = 20, among {self.bank_images:,} {part}training images{each}"


def baselines(images: Images, data: Config, cache: Path) -> Baselines:
    """Return the baselines of a data set, from the cache if that has the same `data` section and the same images."""
    splits = images.facts()["splits"]  # a folder may have other images than before
    key = {"data": data, "splits": splits, "as_features": True}  # which files of Euclidean neighbors lack
    known = read_cache(cache, {})
    with suppress(KeyError, TypeError):  # another's
        if {name: known.get(name) for name in key} == key:
            return Baselines(**{each.name: known["baselines"][each.name] for each in fields(Baselines)})
    measured = _averaged([measure_baselines(part) for part in getattr(images, "parts", [images])])
    write_text(cache, json.dumps(key | {"baselines": asdict(measured)}, indent=2) + "\n")
    return measured


def _averaged(parts: Sequence[Baselines]) -> Baselines:
    """Return the baselines over the test images of all folds."""
    if len(parts) == 1:
        return parts[0]
    weights = [part.test_images for part in parts]
    majority, knn = np.average([(part.majority, part.knn) for part in parts], axis=0, weights=weights)
    return replace(parts[0], majority=float(majority), knn=float(knn), test_images=sum(weights), folds=len(parts))


def measure_baselines(images: Any) -> Baselines:
    """Return the baselines of a data module."""
    train, test = images.labels("train"), images.labels("test")
    found, truth, examples = classify_pixels(images, ["train"], "test")
    majority = int(np.bincount(train, minlength=images.num_classes).argmax())
    return Baselines(
        majority=float((test == majority).mean()),
        majority_class=images.class_names[majority],
        knn=float((found == truth).double().mean()),
        bank_images=examples,
        test_images=len(truth),
        subsampled=examples < len(train),
    )
