"""Scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels that come with the package, without a download."""

from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from vitlab.data.augment import BatchAugment
from vitlab.data.dataset import Split
from vitlab.data.folds import Folds
from vitlab.data.in_memory import InMemoryDataModule, TensorImages
from vitlab.data.splitting import stratified_split

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
    has_folds = True

    image_size: int = SIDE
    mean: tuple[float] = (0.305,)
    std: tuple[float] = (0.376,)
    augment: BatchAugment = BatchAugment(shift=1, shift_prob=0.25)

    @property
    def class_names(self) -> list[str]:
        return CLASS_NAMES

    def read_splits(self) -> dict[Split, TensorImages]:
        return read_digits(self.val_fraction, self.split_seed, self.folds)


def read_digits(val_fraction: float, split_seed: int, folds: Folds | None = None) -> dict[Split, TensorImages]:
    """Hold out the test split, then the validation split; images (N, 1, 8, 8)."""
    from sklearn.datasets import load_digits  # here: it takes a second, and most runs use another data set

    data = load_digits()
    labels = data.target.astype(np.int64)
    pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # 0 … 16 in the source
    images = torch.from_numpy(pixels)[:, None]  # (N, 1, 8, 8)

    names = [f"digits/{index:04d}" for index in range(len(labels))]
    if folds is not None:
        train, val, test = folds.split(labels, names, val_fraction, split_seed)
    else:
        rest, test = stratified_split(labels, _TEST_FRACTION, split_seed)
        kept, held_out = stratified_split(labels[rest], val_fraction, split_seed)
        train, val = rest[kept], rest[held_out]
    splits: dict[Split, np.ndarray] = {"train": train, "val": val, "test": test}
    whole = TensorImages(images, labels, names)
    return {split: whole.take(indices) for split, indices in splits.items()}
