"""Folds, which test each image once: their images as one test set, and what they change of the intervals."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from vitlab.studies.file.fairness import Images, Split
from vitlab.studies.results.run import RunResult

FOLDS = "folds.csv"  # in a study's folder


class Pool:
    """The images of all folds, by name, as the test images of a study."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self.parts = parts
        self.class_names, self.num_classes = parts[0].class_names, parts[0].num_classes
        self.grouping = parts[0].grouping
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
        return self._in_order((part.labels(split) for part in self.parts), split)

    def contents(self, split: Split) -> np.ndarray:
        return self._in_order((part.contents(split) for part in self.parts), split)

    def _in_order(self, of_parts: Iterator[np.ndarray], split: Split) -> np.ndarray:
        return np.concatenate([*of_parts])[self._order] if split == "test" else next(of_parts)

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        if split != "test":
            return self.parts[0].raw_images(split, indices)
        places = [self._places[index] for index in indices]
        return [image for part, index in places for image in part.raw_images("test", [index])]


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
