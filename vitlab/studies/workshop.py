"""What a study needs from the rest of the package: complete configurations, and images.

Studies import neither data sets nor objectives; the command line passes in these functions.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from vitlab.config import Config

Split = Literal["train", "val", "test"]


class Images(Protocol):
    """The images of an experiment, without augmentation."""

    @property
    def num_classes(self) -> int: ...

    @property
    def class_names(self) -> list[str]: ...

    def image_names(self, split: Split) -> list[str]:
        """Return the names of a split's images, in evaluation order. Splits: train, val, test."""

    def labels(self, split: Split) -> np.ndarray:
        """Return the class indices of a split's images, (N,) int64, in the same order."""

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        """Return images as uint8 (H, W, C), C being 1 or 3; sizes may differ."""


class Workshop(Protocol):
    """What the command line does for a study."""

    def resolve(self, config: Config) -> Config:
        """Return the complete configuration that `fit` would run and write to `config.yaml`, every default filled in.

        Raises:
            ValueError: the configuration cannot be run; one message of at most four lines.
        """

    def data(self, config: Config) -> Images:
        """Return the images of a resolved configuration."""
