"""Small images: one uint8 tensor in memory or on the device, read and augmented a batch at a time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from jsonargparse.typing import NonNegativeInt
from torch import Tensor

from vitlab.data.augment import BatchAugment
from vitlab.data.counter_rng import Draws, to_device
from vitlab.data.datamodule import ImageDataModule
from vitlab.data.dataset import Batch, ImageDataset, Images, Labels, as_classes
from vitlab.data.photos import Framing
from vitlab.data.sampler import Key


class TensorImages(ImageDataset):
    """Images in one tensor (N, C, H, W)."""

    def __init__(self, images: UInt8[Tensor, "N C H W"], labels: Labels, names: list[str]) -> None:
        assert len(images) == len(labels) == len(names)
        self.images, self.labels = images, labels
        self._labels, self._names = torch.from_numpy(as_classes(labels)), names

    @property
    def names(self) -> list[str]:
        return self._names

    def take(self, indices: Int64[np.ndarray, "n"]) -> "TensorImages":
        return TensorImages(self.images[indices], self.labels[indices], [self._names[i] for i in indices])

    def _identity(self) -> list[bytes]:
        return [*super()._identity(), self.images.cpu().contiguous().numpy().tobytes()]

    def to(self, device: torch.device) -> None:
        self.images, self._labels = self.images.to(device), self._labels.to(device)

    def __getitems__(self, keys: list[Key]) -> Batch:
        numbers = np.array([key.image for key in keys])
        indices = to_device(torch.from_numpy(numbers), self.images.device)
        places = indices % len(self)
        images, labels = self.images.index_select(0, places), self._labels.index_select(0, places)
        return Batch(images, labels, indices, keys[0].epoch, keys[0].first, numbers)

    def raw(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        return self.images[index].permute(1, 2, 0).cpu().numpy()


@dataclass(kw_only=True, eq=False, repr=False)
class InMemoryDataModule(ImageDataModule, ABC):
    """Parent of the data sets that fit into memory. A subclass gives `class_names`, `native_size` and `read_splits`.

    Args:
        num_workers: processes that read ahead; only with `hold_on_device: false`.
        image_size: side in pixels of what the model sees; other images are resized on the device, bicubic.
        augment: see `BatchAugment`.
        hold_on_device: keep all images on the training device (CIFAR: 180 MB). Batches are then gathered there, and no
            step waits for workers or copies.
    """

    num_workers: NonNegativeInt = 0
    augment: BatchAugment = BatchAugment()
    hold_on_device: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hold_on_device and self.num_workers > 0:
            wrong = f"num_workers is {self.num_workers}, but the images are kept on the device"
            raise ValueError(f"{wrong}. Set num_workers: 0, or hold_on_device: false.")

    @property
    @abstractmethod
    def native_size(self) -> int:
        """Side in pixels of the stored images."""

    @property
    def framing(self) -> Framing:
        """Pictures are first reduced to the stored images' size, and only then resized to `image_size` as these are."""
        return Framing(self.native_size, 1.0, "bicubic")

    def setup(self, stage: str) -> None:
        """Read the data and move it to the training device if `hold_on_device`."""
        super().setup(stage)
        if self.hold_on_device and self.trainer is not None:
            for dataset in self._datasets.values():
                assert isinstance(dataset, TensorImages)
                dataset.to(self.trainer.strategy.root_device)

    def _distort(self, images: Images, draws: Draws) -> Images:
        return self.augment.distort(images, draws)

    @property
    def _pin_memory(self) -> bool:
        return super()._pin_memory and not self.hold_on_device
