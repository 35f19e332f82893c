"""Small images: one uint8 tensor in memory or on the device, read and distorted a batch at a time."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vitlab.data.augment import BatchAugment, resize
from vitlab.data.counter_rng import Draws, to_device
from vitlab.data.datamodule import Batch, ImageDataModule, ImageDataset, Split
from vitlab.data.mixup import Mixup
from vitlab.data.multi_crop import MultiCrop
from vitlab.data.photos import Framing
from vitlab.data.sampler import Key


class TensorImages(ImageDataset):
    """Images that lie in one tensor (N, C, H, W)."""

    def __init__(self, images: UInt8[Tensor, "N C H W"], labels: np.ndarray, names: list[str]) -> None:
        assert len(images) == len(labels) == len(names)
        self.images, self.labels = images, labels
        self._labels, self._names = torch.from_numpy(labels), names

    @property
    def names(self) -> list[str]:
        """What the data set calls them."""
        return self._names

    def _identity(self) -> list[bytes]:
        return [*super()._identity(), self.images.cpu().contiguous().numpy().tobytes()]

    def to(self, device: torch.device) -> None:
        """Move images and labels."""
        self.images, self._labels = self.images.to(device), self._labels.to(device)

    def __getitems__(self, keys: list[Key]) -> Batch:
        """Gather one batch where the images lie."""
        numbers = np.array([key.image for key in keys])
        indices = to_device(torch.from_numpy(numbers), self.images.device)
        images, labels = self.images.index_select(0, indices), self._labels.index_select(0, indices)
        return Batch(images, labels, indices, keys[0].epoch, keys[0].first, numbers)

    def raw(self, index: int) -> np.ndarray:
        """Return one image (H, W, C)."""
        return self.images[index].permute(1, 2, 0).cpu().numpy()


class InMemoryDataModule(ImageDataModule, ABC):
    """Parent of the data sets that fit into memory.

    Args:
        augment: see `BatchAugment`.
        hold_on_device: keep all images on the device that trains. A batch is then gathered there, and no worker, copy
            or wait stands between two steps; for CIFAR it costs 180 MB of the GPU's memory. Turn it off to read with
            workers, which cannot share that memory.
    """

    augment: BatchAugment

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
        seed: int,
        split_seed: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        augment: BatchAugment,
        mixup: Mixup | None,
        multi_crop: MultiCrop | None,
        native_size: int,
        image_size: int,
        hold_on_device: bool,
    ) -> None:
        super().__init__(
            batch_size, eval_batch_size, num_workers, seed, split_seed, mean, std, augment.erase_prob, mixup, multi_crop
        )
        if hold_on_device and num_workers > 0:
            raise ValueError(
                f"num_workers is {num_workers}, but the images are held on the device and workers have nothing to do.\n"
                "Set num_workers: 0, or hold_on_device: false."
            )
        if image_size < 1:
            raise ValueError(f"data.init_args.image_size is {image_size}; it is a side in pixels, e.g. {native_size}.")
        if augment.shift >= native_size:
            raise ValueError(f"augment.shift is {augment.shift}; the images are {native_size} pixels wide.")
        self.augment, self.hold_on_device = augment, hold_on_device
        self._native_size, self._image_size = native_size, image_size

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that the model sees."""
        return self._image_size

    @property
    def framing(self) -> Framing:
        """A picture becomes as coarse as the images trained on, which are enlarged where the model sees larger ones."""
        return Framing(self._native_size, 1.0, "bicubic")

    def setup(self, stage: str) -> None:
        """Read the data and, if told, move it to where the trainer trains."""
        super().setup(stage)
        if self.hold_on_device and self.trainer is not None:
            for dataset in self._datasets.values():
                assert isinstance(dataset, TensorImages)
                dataset.to(self.trainer.strategy.root_device)

    @abstractmethod
    def _read(self) -> dict[Split, ImageDataset]: ...

    def _distort(self, images: Tensor, draws: Draws) -> Tensor:
        return self.augment.distort(images, draws)

    def _to_size(self, images: Tensor) -> Tensor:
        return images if self._image_size == self._native_size else resize(images, self._image_size)

    @property
    def _pin_memory(self) -> bool:
        return super()._pin_memory and not self.hold_on_device
