"""One split of a data set, read a batch at a time.

Letters: B images in the batch, N images in the split, C channels, H rows, W columns, K classes.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.data.checking import content_of
from vitlab.data.photos import Size
from vitlab.data.sampler import Key

Split = Literal["train", "val", "test"]
STRATUM = "size in pixels"  # of the object: its name in the `strata` of data sets that have it
SPLITS: tuple[Split, ...] = get_args(Split)
View = tuple[list[Tensor], Tensor]


class Batch(NamedTuple):
    """A batch before it is augmented and normalized."""

    images: Tensor | list[Tensor]  # (B, C, H, W) uint8; views of photographs
    labels: Tensor  # (B,) int64, or (B, K) float32: several labels or quantities
    indices: Tensor  # (B,) int64, within the split; the r-th repeat of image i is i + r · size
    epoch: int | None  # None in evaluation: nothing is drawn
    first: int  # indices[0] of the first process, kept on the host
    host_indices: np.ndarray | None = None  # the same indices: arrays stay on the host when a batch is moved
    side: Size | None = None  # in pixels, of what the model sees; None: as large as they are at this point of the run


class ImageDataset(Dataset[Batch], ABC):
    """One split, read a batch at a time. An index modulo the number of images is the image."""

    labels: np.ndarray  # (N,) int64, or (N, K) float32

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The name of each image in reports."""

    @abstractmethod
    def __getitems__(self, keys: list[Key]) -> Batch:
        """Read one batch."""

    @abstractmethod
    def raw(self, index: int) -> np.ndarray:
        """Return one image as (H, W, C) uint8, not augmented."""

    @abstractmethod
    def take(self, indices: np.ndarray) -> "ImageDataset":
        """Return the images at the indices (n,) int64."""

    def contents(self) -> np.ndarray:
        """Return a hash of each image, (N,) uint64, equal where the images are equal; 0: unknown."""
        return np.array([content_of(self.raw(index).tobytes()) for index in range(len(self))], np.uint64)

    def blocks(self) -> np.ndarray | None:
        """Return a number for each image, (N,) int64, equal where images are read together; None: in any order."""
        return None

    def digest(self) -> str:
        """Return a hash of the split's images, labels and order."""
        content = hashlib.blake2b(digest_size=16)
        for part in (*self._identity(), self.labels.tobytes()):
            content.update(part)
        return content.hexdigest()

    def _identity(self) -> list[bytes]:
        """Return what identifies these images; override where names are not enough."""
        return ["\0".join(self.names).encode()]


def has_one_class_each(dataset: ImageDataset) -> bool:
    """Whether the labels are class indices, one per image."""
    return dataset.labels.ndim == 1 and np.issubdtype(dataset.labels.dtype, np.integer)
