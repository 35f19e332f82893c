"""One split of a data set, read a batch at a time.

Letters: B images in the batch, N images in the split, C channels, H rows, W columns, K classes.
"""

import hashlib
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float32, Int, Int64, Shaped, UInt8, UInt64
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.data.checking import content_of
from vitlab.data.photos import Size
from vitlab.data.sampler import Key

Split = Literal["train", "val", "test"]
STRATUM = "size in pixels"  # of the object: its name in the `strata` of data sets that have it
SPLITS: tuple[Split, ...] = get_args(Split)
Labels = Shaped[np.ndarray, "N ..."]  # (N,) classes, int64; (N, K) several labels or quantities, float32
Targets = Shaped[Tensor, "B ..."]  # the same of a batch; after mixup, probabilities (B, K) of classes
Images = UInt8[Tensor, "B C H W"] | Float32[Tensor, "B C H W"]  # 0 … 255; floats with 16 bits of precision
Cut = UInt8[Tensor, "B C _ _"] | Float32[Tensor, "B C _ _"]  # one of several views, which differ in size
View = tuple[list[Float[Tensor, "B C _ _"]], Targets]  # what a model sees of a batch


class Batch(NamedTuple):
    """A batch before it is augmented and normalized."""

    images: Images | list[Cut]  # a list: views of photographs
    labels: Targets
    indices: Int64[Tensor, "B"]  # within the split; the r-th repeat of image i is i + r · size
    epoch: int | None  # None in evaluation: nothing is drawn
    first: int  # indices[0] of the first process, kept on the host
    host_indices: Int64[np.ndarray, "B"] | None = None  # the same: arrays stay on the host when a batch is moved
    side: Size | None = None  # in pixels, of what the model sees; None: as large as they are at this point of the run


class ImageDataset(Dataset[Batch], ABC):
    """One split, read a batch at a time. An index modulo the number of images is the image."""

    labels: Labels

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
    def raw(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        """Return one image, not augmented."""

    @abstractmethod
    def take(self, indices: Int64[np.ndarray, "n"]) -> "ImageDataset":
        """Return the images at the indices."""

    def contents(self) -> UInt64[np.ndarray, "{len(self)}"]:
        """Return a hash of each image, equal where the images are equal; 0: unknown."""
        return np.array([content_of(self.raw(index).tobytes()) for index in range(len(self))], np.uint64)

    @property
    def knows_contents(self) -> bool:
        """Whether the digest is also of what the images show."""
        return True

    def blocks(self) -> Int[np.ndarray, "{len(self)}"] | None:
        """Return a number for each image, equal where images are read together; None: in any order."""
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


def as_classes(labels: Labels) -> Labels:
    """Return class indices of any integer type as int64, which losses need; other labels as they are."""
    return labels.astype(np.int64, copy=False) if labels.ndim == 1 and labels.dtype.kind in "iu" else labels


def has_one_class_each(dataset: ImageDataset) -> bool:
    """Whether the labels are class indices, one per image."""
    return dataset.labels.ndim == 1 and np.issubdtype(dataset.labels.dtype, np.integer)
