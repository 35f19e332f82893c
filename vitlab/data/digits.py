"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels, in the package, without a download."""

from typing import final

import numpy as np
import torch

from vitlab.data.augment import BatchAugment
from vitlab.data.datamodule import ImageDataset, Split, check_fraction, stratified_split
from vitlab.data.in_memory import InMemoryDataModule, TensorImages
from vitlab.data.mixup import Mixup
from vitlab.data.multi_crop import MultiCrop

_TEST_FRACTION = 1 / 3


@final
class Digits(InMemoryDataModule):
    """Ten classes, one channel. A third of the images, stratified, is the test split; of the rest, a part validates.

    Args:
        batch_size: images a step and process.
        eval_batch_size: the same in evaluation; null: `batch_size`.
        num_workers: processes that read ahead; these images need none.
        seed: decides order and distortions.
        split_seed: decides which images are held out, the same for every `seed`.
        val_fraction: the share of the images outside of the test split that validates.
        image_size: side in pixels that the model sees; other than 8, images are resized on the device, bicubic.
        mean: of the only channel, on the scale 0 … 1.
        std: of the only channel, on the same scale.
        augment: by default a quarter of the images moves by at most one pixel: an eighth of the image's width.
        mixup: blend training images with each other. Null: off.
        multi_crop: several views of each training image, in place of `augment`; see `MultiCrop`. Null: one view.
        hold_on_device: keep all images on the device that trains, so that no step waits for data.
    """

    def __init__(
        self,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        val_fraction: float = 0.1,
        image_size: int = 8,
        mean: tuple[float] = (0.305,),
        std: tuple[float] = (0.376,),
        augment: BatchAugment = BatchAugment(shift=1, shift_prob=0.25),  # noqa: B008  (frozen)
        mixup: Mixup | None = None,
        multi_crop: MultiCrop | None = None,
        hold_on_device: bool = True,
    ) -> None:
        super().__init__(
            batch_size,
            eval_batch_size,
            num_workers,
            seed,
            split_seed,
            mean,
            std,
            augment,
            mixup,
            multi_crop,
            native_size=8,
            image_size=image_size,
            hold_on_device=hold_on_device,
        )
        check_fraction("val_fraction", val_fraction)
        self.val_fraction = val_fraction

    @property
    def class_names(self) -> list[str]:
        """The ten digits."""
        return [str(digit) for digit in range(10)]

    def _read(self) -> dict[Split, ImageDataset]:
        from sklearn.datasets import load_digits  # here: it takes a second, and most runs use another data set

        data = load_digits()
        labels = data.target.astype(np.int64)
        pixels = np.rint(data.images * (255 / 16)).astype(np.uint8)  # 0 … 16 in the source
        images = torch.from_numpy(pixels)[:, None]  # (N, 1, 8, 8)

        rest, test = stratified_split(labels, _TEST_FRACTION, self.split_seed)
        kept, held_out = stratified_split(labels[rest], self.val_fraction, self.split_seed)
        parts: dict[Split, np.ndarray] = {"train": rest[kept], "val": rest[held_out], "test": test}
        return {
            split: TensorImages(images[indices], labels[indices], [f"digits/{index:04d}" for index in indices])
            for split, indices in parts.items()
        }
