"""Where photographs come from: a folder of files, or one file that was prepared from such a folder."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np

from vitlab.data.datamodule import Split
from vitlab.data.decoding import Half, Jpeg, Pixels


class PhotoSource(ABC):
    """Photographs by name, in classes and splits.

    Attributes:
        class_names: folders' names, in the order of the labels.
        splits: names and labels (N,) int64 of each split that has a place of its own; without such places all is train.
    """

    class_names: list[str]
    splits: dict[Split, tuple[list[str], np.ndarray]]

    @abstractmethod
    def find_broken(self) -> tuple[dict[str, str], Path]:
        """Return the photographs that cannot be decoded, with the reason, and a file that lists them all."""

    @abstractmethod
    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Decode one of the others; in a worker as in the training process. At half its size where that will do.

        Raises:
            ValueError: it could be decoded when the run began; the message names it.
        """

    @abstractmethod
    def jpeg(self, name: str) -> Jpeg | None:
        """Return one of the others as a JPEG that is still to be decoded; None where there is no such thing."""
