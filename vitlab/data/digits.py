"""Scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels that come with the package, without a download.

They are also placed at random on a larger black canvas. Nearest neighbors in pixels classify 98.8 % of the test images
of the plain digits correctly, here 65 %: what counts is the shape, wherever it is.

Letters: B images, C channels, H rows, W columns.
"""

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Int64, Shaped, UInt8
from jsonargparse.typing import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from vitlab.data.augment import BatchAugment
from vitlab.data.counter_rng import Draws, Stream, permutation, to_device
from vitlab.data.datamodule import ImageDataModule
from vitlab.data.dataset import SPLITS, STRATUM, Batch, Split, View
from vitlab.data.in_memory import InMemoryDataModule, TensorImages
from vitlab.internals import digits_table

CLASS_NAMES = [str(digit) for digit in range(10)]
SIDE = 8  # pixels
_TEST_FRACTION = 1 / 3


@final
@dataclass(kw_only=True, eq=False, repr=False)
class Digits(InMemoryDataModule):
    """Ten classes, one channel. The test split is a stratified third, or one of `folds`; `val_fraction` of the rest
    validates.

    Args:
        augment: by default a quarter of the images shift by up to one pixel, an eighth of their width.
    """

    native_size = SIDE
    class_names: ClassVar[list[str]] = CLASS_NAMES
    has_folds = True

    image_size: int = SIDE
    mean: tuple[float] = (0.305,)
    std: tuple[float] = (0.376,)
    augment: BatchAugment = BatchAugment(shift=1, shift_prob=0.25)

    def read_splits(self) -> dict[Split, TensorImages]:
        return read_digits(self)


def read_digits(module: ImageDataModule) -> dict[Split, TensorImages]:
    """Hold out the test split, then the validation split; images (N, 1, 8, 8)."""
    table = np.loadtxt(digits_table(), delimiter=",")  # (N, 65): the pixels and the digit
    labels = table[:, -1].astype(np.int64)
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8)  # 0 … 16 in the source
    images = torch.from_numpy(pixels).view(-1, 1, SIDE, SIDE)

    whole = TensorImages(images, labels, [f"digits/{index:04d}" for index in range(len(labels))])
    if module.folds is not None:
        return module.parted(whole)
    rest, test = module.held_out(whole, _TEST_FRACTION)
    train, val = module.held_out(rest, module.val_fraction)
    return {"train": train, "val": val, "test": test}


@final
@dataclass(kw_only=True, eq=False, repr=False)
class PlacedDigits(InMemoryDataModule):
    """The images of `Digits` in the same splits, at their own 8 x 8 pixels or enlarged to several sizes.

    A training image has a new place each time it is seen, by (seed, epoch, image); in validation, tests, galleries and
    baselines images have one place and size by `split_seed`, the same for every run.

    Args:
        image_size: side of the canvas in pixels, no less than a digit's; the canvas is not resized.
        digit_sizes: sides of the digits in pixels, all equally likely; reports then give the accuracy by size. The
            digits are 8 pixels wide, other sizes are interpolated.
        test_places: of each test digit. With ten, a lead depends less on where the digits are. The images of a digit
            fail together, so a study then needs `groups: '(digits/[0-9]+)'`.
        imbalance: how many times as many training images the digit 0 has as the digit 9. From one digit to the next
            their number falls by the same factor, as in long-tailed CIFAR (Cui et al. 2019).
    """

    class_names: ClassVar[list[str]] = CLASS_NAMES

    image_size: int = 16
    mean: tuple[float] = (0.0763,)
    std: tuple[float] = (0.2297,)
    digit_sizes: tuple[PositiveInt, ...] = (SIDE,)
    test_places: PositiveInt = 1
    imbalance: PositiveFloat = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.digit_sizes = tuple(self.digit_sizes)
        if self.image_size < (widest := max(self.digit_sizes)):
            raise ValueError(f"image_size is {self.image_size}, but a digit is {widest} wide; set {widest} or more.")

    @property
    def native_size(self) -> int:
        return self.image_size

    def read_splits(self) -> dict[Split, TensorImages]:
        splits = read_digits(self)
        if self.imbalance != 1:
            train, kept = splits["train"], list[np.ndarray]()
            for label in range(10):
                members = np.flatnonzero(train.labels == label)
                order = permutation(len(members), self.split_seed, label, Stream.SUBSET)
                kept.append(members[order[: round(len(members) * self.imbalance ** (-label / 9))]])
            splits["train"] = train.take(np.sort(np.concatenate(kept)))
        test = splits["test"]
        whole = test.take(np.tile(np.arange(len(test)), self.test_places))
        names = [f"{name}/{i}" if i else name for i in range(self.test_places) for name in test.names]
        splits["test"] = TensorImages(whole.images, whole.labels, names)  # digits/0007, digits/0007/1, …
        for split, digits in splits.items():
            indices = torch.arange(len(digits))
            sizes, canvas = self._sizes(split, indices), torch.zeros(len(digits), 1, *2 * [self.image_size]).byte()
            for size in set(self.digit_sizes):
                shown = digits.images[sizes == size]
                if size != SIDE:
                    shown = F.interpolate(shown.float(), (size, size), mode="bilinear", antialias=True).round().byte()
                canvas[sizes == size, :, :size, :size] = shown
            digits.images = roll(canvas, self._fixed_places(split, indices))
        return splits

    def masks(self, split: Split) -> Bool[Tensor, "N H W"]:
        """Return where the ink is, brighter than middle gray."""
        dataset = self.dataset(split)
        assert isinstance(dataset, TensorImages)
        return dataset.images[:, 0] > 127

    def strata(self, split: Split) -> dict[str, Shaped[np.ndarray, "N"]]:
        if len(set(self.digit_sizes)) == 1:
            return {}
        indices = torch.arange(len(self.dataset(split)))
        sizes = self._sizes(split, self._numbers(indices) if split == "train" else indices)
        return {STRATUM: sizes.numpy().astype(str)}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        """Move training images from their fixed places to those of the epoch, before any other augmentation."""
        if batch.epoch is not None:
            assert isinstance(batch.images, Tensor)
            numbers = self._numbers(batch.indices)
            draws = Draws(self.effective_augment_seed, batch.epoch, batch.indices)
            places = self._places(draws, self._sizes("train", numbers))
            moved = roll(batch.images, places - self._fixed_places("train", numbers))
            batch = batch._replace(images=moved)
        return super().on_after_batch_transfer(batch, dataloader_idx)

    def _numbers(self, indices: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """Return the places that training images, or repeats of them, have among all, before `train_images` chose."""
        indices = indices % len(self.dataset("train"))
        return indices if self._chosen is None else to_device(torch.from_numpy(self._chosen), indices.device)[indices]

    def _sizes(self, split: Split, indices: Int64[Tensor, "B"]) -> Int64[Tensor, "B"]:
        """Return the side of each digit."""
        u = self._fixed_draws(split, indices).uniform(Stream.SIZE, 1)[:, 0]
        return to_device(torch.tensor(self.digit_sizes), u.device)[(u * len(self.digit_sizes)).long()]

    def _places(self, draws: Draws, sizes: Int64[Tensor, "B"]) -> Int64[Tensor, "B 2"]:
        """Return the row and the column of each digit's upper left pixel; all places are equally likely."""
        return (draws.uniform(Stream.PLACE, 2) * (self.image_size - sizes[:, None] + 1)).long()

    def _fixed_places(self, split: Split, indices: Int64[Tensor, "B"]) -> Int64[Tensor, "B 2"]:
        return self._places(self._fixed_draws(split, indices), self._sizes(split, indices))

    def _fixed_draws(self, split: Split, indices: Int64[Tensor, "B"]) -> Draws:
        return Draws(self.split_seed, -1 - SPLITS.index(split), indices)  # no epoch is below 0


def roll(images: UInt8[Tensor, "B C H W"], by: Int64[Tensor, "B 2"]) -> UInt8[Tensor, "B C H W"]:
    """Move each image down and right by its own numbers of pixels; what leaves at one side comes in at the other."""
    height, width = images.shape[-2:]
    rows = (torch.arange(height, device=by.device) - by[:, :1]) % height  # (B, H)
    columns = (torch.arange(width, device=by.device) - by[:, 1:]) % width  # (B, W)
    moved = images.gather(2, rows[:, None, :, None].expand_as(images))
    return moved.gather(3, columns[:, None, None, :].expand_as(images))
