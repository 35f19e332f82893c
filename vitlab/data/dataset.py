"""One split of a data set, read a batch at a time, and the photographs of which it may consist.

Letters: B images in the batch, N images in the split, C channels, H rows, W columns, K classes.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float, Float32, Int, Int64, Shaped, UInt8, UInt64
from torch import Tensor
from torch.utils.data import Dataset

from vitlab.config import rows_by_name
from vitlab.data.checking import Check, check_all, content_of, dhash_of
from vitlab.data.decoding import Half, PictureMode, Pixels, Size, Window, decode, read_regular, some
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

    def dhashes(self) -> UInt8[np.ndarray, "{len(self)} 32"]:
        """Return the difference hash of each image, by which `look_alikes` are found."""
        return np.stack([dhash_of(self.raw(index)) for index in range(len(self))])

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


def has_one_class_each(labels: Labels) -> bool:
    """Whether the labels are class indices, one per image."""
    return labels.ndim == 1 and labels.dtype.kind in "iu"


def as_classes(labels: Labels) -> Labels:
    """Return class indices of any integer type as int64, which losses need; other labels as they are."""
    return labels.astype(np.int64, copy=False) if has_one_class_each(labels) else labels


def numbers_of(place: str, classes: Sequence[str], split: Split, own: Sequence[str]) -> Int64[np.ndarray, "{len(own)}"]:
    """Return the number among the training classes of each class that a split has, by its name."""
    rows = rows_by_name(classes, own)
    if missing := [name for name, row in zip(own, rows, strict=True) if row is None]:
        wrong = f"{place}: the {split} split has classes without a training image: {some(missing)}"
        raise ValueError(f"{wrong}.\nIts classes are {some(own)}, those of train {some(classes)}; give the same names.")
    return np.array(rows, np.int64)


class Subset(NamedTuple):
    """Some photographs of a source."""

    names: list[str]
    labels: Labels
    contents: UInt64[np.ndarray, "N"]  # see `Check`
    dhashes: UInt8[np.ndarray, "N 32"]  # as well

    def take(self, indices: Int64[np.ndarray, "n"]) -> "Subset":
        return Subset([self.names[i] for i in indices], *(each[indices] for each in self[1:]))

    def joined(self, other: "Subset") -> "Subset":
        """Return these photographs and then the other ones."""
        both = zip(self[1:], other[1:], strict=True)
        return Subset([*self.names, *other.names], *map(np.concatenate, both))


class PhotoSource(ABC):
    """Photographs by name. A subclass sets `class_names` and `splits` and reads one photograph at a time."""

    class_names: list[str]  # in the order of the labels
    splits: dict[Split, tuple[list[str], Labels]]  # names and labels; missing validation or test images are held out
    location: str = "the data source"  # for messages
    notes: Sequence[str] = ()  # remarks for the user
    grouping: str | None = None  # how `groups_by_name` tells which of them belong together; None: they are independent

    @abstractmethod
    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Return the pixels (H, W, C), uint8 or `windowed`, of one photograph; see `decode` for `half`.

        Called in workers too. A photograph that cannot be read raises ValueError with its name, which stops the run.
        """

    def blocks(self, names: Sequence[str]) -> Int[np.ndarray, "{len(names)}"] | None:
        """Return a number for each name, equal where photographs are read and shuffled together; None: one by one."""
        return None

    def check(self) -> Check:
        """Return what is known of all photographs, one split after the other; by default, none is broken."""
        N = sum(len(labels) for _, labels in self.splits.values())
        return Check({}, None, np.zeros(N, np.uint64), [], np.zeros((N, 32), np.uint8))

    def address(self, name: str) -> str:
        """Return where one photograph is, for messages."""
        return os.path.join(self.location, name)

    def subsets(self, known: Check) -> dict[Split, Subset]:
        """Return the splits with what `check` found, broken photographs included."""
        ends = np.cumsum([len(labels) for _, labels in self.splits.values()])[:-1]
        parts = zip(*(np.split(each, ends) for each in (known.contents, known.dhashes)), strict=True)
        return {split: Subset(*self.splits[split], *own) for split, own in zip(self.splits, parts, strict=True)}


class EncodedPhotos(PhotoSource):
    """Photographs as encoded bytes, all of which are decoded once before training, in a mode."""

    cache_key: Path | str  # of what the check found
    mode: PictureMode = "RGB"
    window: Window | None = None

    @abstractmethod
    def content(self, name: str) -> bytes:
        """Return the bytes of one photograph, or raise ValueError with the reason."""

    @abstractmethod
    def marks(self) -> list[str]:
        """Return for each photograph a text that changes with it; "" where it is always decoded again."""

    def check(self) -> Check:
        """Decode every photograph that no earlier check decoded."""

        # In RGB for all modes but those that decode what this cannot.
        how = () if self.window is None and self.mode != "array" else (self.mode, None, self.window)

        def read(name: str) -> tuple[Pixels, bytes]:
            content = self.content(name)
            return decode(content, *how), content

        names = [name for names, _ in self.splits.values() for name in names]
        return check_all(self.cache_key, names, [f"{mark}{how or ''}" if mark else "" for mark in self.marks()], read)

    def read(self, name: str, half: Half | None = None) -> Pixels:
        try:
            return decode(self.content(name), self.mode, half, self.window)
        except ValueError as error:
            wrong = f"{self.address(name)} cannot be decoded any more: {error}"
            raise ValueError(f"{wrong}. Restore it, and give the same command again.") from None


class Files(EncodedPhotos):
    """Image files, whose names are relative to `root`."""

    def __init__(self, root: Path, mode: PictureMode = "RGB") -> None:
        self.root, self.mode, self.cache_key = root, mode, root

    def content(self, name: str) -> bytes:
        return read_regular(self.root / name)

    def marks(self) -> list[str]:
        """Return each file's size and time of change."""

        marks = []
        for name in (name for names, _ in self.splits.values() for name in names):
            marks.append("")
            with suppress(OSError):  # a dangling link: decoding reports it
                status = os.stat(self.root / name)
                marks[-1] = f"{status.st_size}\0{status.st_mtime_ns}"
        return marks

    def address(self, name: str) -> str:
        return str(self.root / name)
