"""Where photographs come from: a folder of files, a table, a stream of shards, or a class of the user's own."""

from abc import ABC, abstractmethod
from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int64, UInt64

from vitlab.config import rows_by_name
from vitlab.data.checking import Check
from vitlab.data.dataset import Labels, Split
from vitlab.data.decoding import Half, Pixels


def numbers_of(place: str, classes: Sequence[str], split: Split, own: Sequence[str]) -> Int64[np.ndarray, "{len(own)}"]:
    """Return the number among the training classes of each class that a split has, by its name.

    Raises:
        ValueError: training has no class of this name.
    """
    rows = rows_by_name(classes, own)
    if missing := [name for name, row in zip(own, rows, strict=True) if row is None]:
        raise ValueError(
            f"{place}: the {split} split has classes without a training image: {', '.join(missing[:8])}.\n"
            f"Its classes are {', '.join(own[:8])}, those of train {', '.join(classes[:8])}; give the same names."
        )
    return np.array(rows, np.int64)


class Subset(NamedTuple):
    """Some photographs of a source."""

    names: list[str]
    labels: Labels
    contents: UInt64[np.ndarray, "N"]  # see `Check`

    def take(self, indices: Int64[np.ndarray, "n"]) -> "Subset":
        """Return the photographs at the indices."""
        return Subset([self.names[i] for i in indices], self.labels[indices], self.contents[indices])

    def joined(self, other: "Subset") -> "Subset":
        """Return these photographs and then the other ones."""
        labels, contents = (np.concatenate(both) for both in zip(self[1:], other[1:], strict=True))
        return Subset([*self.names, *other.names], labels, contents)

    def without(self, names: Container[str]) -> "Subset":
        """Return the photographs with other names."""
        return self.take(np.array([i for i, name in enumerate(self.names) if name not in names], np.int64))


class PhotoSource(ABC):
    """Photographs by name. A subclass sets `class_names` and `splits` and reads one photograph at a time.

    Attributes:
        class_names: in the order of the labels.
        splits: names and labels of each split.
            A validation or test split that is missing is held out.
        location: where the photographs are, for messages.
        notes: remarks for the user.
    """

    class_names: list[str]
    splits: dict[Split, tuple[list[str], Labels]]
    location: str = "the data source"
    notes: Sequence[str] = ()

    @abstractmethod
    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Return the pixels (H, W, C), uint8, of one photograph; see `decode` for `half`.

        Called in workers too. A photograph that cannot be read raises ValueError with its name, which stops the run.
        """

    def blocks(self, names: Sequence[str]) -> Int[np.ndarray, "{len(names)}"] | None:
        """Return a number for each name, equal where photographs are read together; None: one by one.

        Training images are then shuffled a few blocks at a time.
        """
        return None

    def check(self) -> Check:
        """Return what is known of all photographs, one split after the other; by default, none is broken."""
        return Check({}, None, np.zeros(sum(len(labels) for _, labels in self.splits.values()), np.uint64), [])

    def subsets(self, known: Check) -> dict[Split, Subset]:
        """Return the splits with what `check` found, broken photographs included."""
        ends = np.cumsum([len(labels) for _, labels in self.splits.values()])
        contents = np.split(known.contents, ends[:-1])
        pairs = zip(self.splits.items(), contents, strict=True)
        return {split: Subset(names, labels, own) for (split, (names, labels)), own in pairs}
