"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009): 50,000 images to train on and 10,000 to test on, 32 x 32 pixels.

Both are stored as one file of uint8 arrays, `x_train (50000, 32, 32, 3)`, `y_train`, `x_test`, `y_test`, which opens in
a fraction of a second; the official archives are pickles.
"""

import zipfile
from abc import ABC
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
import torchvision  # type: ignore[import-untyped]
from jsonargparse.typing import PositiveInt

from vitlab.atomic_files import written_whole
from vitlab.config import expanded
from vitlab.data.augment import BatchAugment
from vitlab.data.dataset import Split
from vitlab.data.in_memory import InMemoryDataModule, TensorImages

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(kw_only=True, eq=False, repr=False)
class _CIFAR(InMemoryDataModule, ABC):
    """What the two have in common. Training images shift by up to four pixels, and half are mirrored (He et al., 2016).

    Args:
        root: folder of `cifar10.npz` or `cifar100.npz`, which is downloaded if it is not there.
    """

    native_size = 32
    has_folds = True
    official: ClassVar[type[torchvision.datasets.CIFAR10]]  # torchvision's class, which knows the checksums
    names: ClassVar[tuple[str, ...]]

    root: str = "data"
    batch_size: PositiveInt = 128
    image_size: int = 32
    augment: BatchAugment = BatchAugment(shift=4, flip_prob=0.5)

    @property
    def class_names(self) -> list[str]:
        return list(self.names)

    @property
    def file(self) -> Path:
        return Path(expanded(self.root)) / f"{self.official.__name__.lower()}.npz"

    def prepare_data(self) -> None:
        """Download by torchvision, which verifies checksums, and convert; the file appears complete or not at all."""
        if self.file.exists():
            return
        try:
            train, test = (self.official(self.file.parent, train=train, download=True) for train in (True, False))
        except (OSError, RuntimeError) as error:
            wrong = f"There is no {self.file}, and the download failed: {' '.join(str(error).split())[:200]}"
            remedy = f"Put it there with the arrays {', '.join(_ARRAYS)}, or {self.official.filename} beside it."
            raise FileNotFoundError(f"{wrong}\n{remedy}") from None
        arrays = (train.data, np.asarray(train.targets), test.data, np.asarray(test.targets))
        with written_whole(self.file) as file:
            np.savez(file, **dict(zip(_ARRAYS, arrays, strict=True)))

    def read_splits(self) -> dict[Split, TensorImages]:
        """Hold out a part of the training images for validation; folds are parts of these too."""
        if not self.file.exists():
            self.prepare_data()
        try:  # the archive has checksums
            with open(self.file, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
                x_train, y_train, x_test, y_test = (archive[name] for name in _ARRAYS)
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            remedy = f"Delete {self.file} and start again to download it."
            raise ValueError(f"{self.file} is damaged: {error}\n{remedy}") from None
        y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
        images, test_images = (torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in (x_train, x_test))
        pool = TensorImages(images, y_train, [f"train/{i:05d}" for i in range(len(y_train))])
        if self.folds is not None:
            return self.parted(pool)
        train, val = self.held_out(pool, self.val_fraction)
        published = TensorImages(test_images, y_test, [f"test/{i:05d}" for i in range(len(y_test))])
        return {"train": train, "val": val, "test": published}


@final
@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR10(_CIFAR):
    """Ten classes of 5,000 training images each."""

    official = torchvision.datasets.CIFAR10
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    mean: tuple[float, float, float] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, float, float] = (0.2470, 0.2435, 0.2616)


@final
@dataclass(kw_only=True, eq=False, repr=False)
class CIFAR100(_CIFAR):
    """A hundred classes of 500 training images each."""

    official = torchvision.datasets.CIFAR100
    # fmt: off
    names = (
        "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
        "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
        "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
        "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
        "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
        "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
        "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road", "rocket",
        "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider", "squirrel",
        "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger", "tractor",
        "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman", "worm",
    )
    # fmt: on

    mean: tuple[float, float, float] = (0.5071, 0.4865, 0.4409)
    std: tuple[float, float, float] = (0.2673, 0.2564, 0.2762)
