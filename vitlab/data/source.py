"""Where photographs come from: a folder of files, or one file that was prepared from such a folder."""

from abc import ABC, abstractmethod
from collections.abc import Container
from typing import NamedTuple

import numpy as np

from vitlab.data.checking import Check
from vitlab.data.datamodule import Split
from vitlab.data.decoding import Half, Pixels


class Part(NamedTuple):
    """Some of the photographs."""

    names: list[str]
    labels: np.ndarray  # (N,) int64
    contents: np.ndarray  # (N,) uint64, of `Check`

    def take(self, indices: np.ndarray) -> "Part":
        """Return those at the indices."""
        return Part([self.names[i] for i in indices], self.labels[indices], self.contents[indices])

    def without(self, names: Container[str]) -> "Part":
        """Return those of other names."""
        return self.take(np.array([i for i, name in enumerate(self.names) if name not in names], np.int64))


class PhotoSource(ABC):
    """Photographs by name, in classes and splits.

    Attributes:
        class_names: folders' names, in the order of the labels.
        splits: names and labels (N,) int64 of each split that has a place of its own; without such places all is train.
        notes: what a user should know of how these were found.
    """

    class_names: list[str]
    splits: dict[Split, tuple[list[str], np.ndarray]]
    notes: list[str]

    @abstractmethod
    def check(self) -> Check:
        """Return what is known of all photographs, one split after the other, before one is asked for."""

    def parts(self, known: Check) -> dict[Split, Part]:
        """Return the splits with what `check` found, broken photographs included."""
        ends = np.cumsum([len(labels) for _, labels in self.splits.values()])
        contents = np.split(known.contents, ends[:-1])
        return {split: Part(*listed, own) for (split, listed), own in zip(self.splits.items(), contents, strict=True)}

    @abstractmethod
    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Decode one of the others; in a worker as in the training process. At half its size where that will do.

        Raises:
            ValueError: it could be decoded when the run began; the message names it.
        """
