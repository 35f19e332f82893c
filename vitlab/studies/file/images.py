"""What a study reads of the images of its runs."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

Split = Literal["train", "val", "test"]


class Images(Protocol):
    """The images of an experiment without augmentation: what a study reads of a data module."""

    @property
    def num_classes(self) -> int: ...

    @property
    def class_names(self) -> list[str]: ...

    def facts(self) -> dict[str, Any]:
        """Return what data.json records, with a digest of each split under `splits`."""

    def image_names(self, split: Split) -> list[str]:
        """Return the names of a split's images, in evaluation order."""

    def labels(self, split: Split) -> np.ndarray:
        """Return their labels; class indices (N,) int64 where each image has one class."""

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        """Return images as uint8 (H, W, C), C being 1 or 3; sizes may differ."""

    def contents(self, split: Split) -> np.ndarray:
        """Return a hash of each image, (N,) uint64, equal where the images are equal; 0: unknown."""
