"""Photographs of another kind than RGB: gray, with transparency, and from a source of one's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from vitlab.data import ImageFolder, MultiCrop, PhotoAugment, PhotoSource
from vitlab.data.decoding import Half, Pixels
from vitlab.models import VisionTransformer
from vitlab.objectives import Supervised
from vitlab.optim import AdamW, WarmupCosine

_SPLITS = ("train", "val")
_PLAIN = PhotoAugment(rand_augment=None, erase_prob=0.0)


def _folder(root: Path, channels: int, **settings: object) -> ImageFolder:
    shared: dict = {
        "image_size": 16,
        "batch_size": 4,
        "num_workers": 0,
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
    }
    return ImageFolder(root=str(root), **{**shared, **settings})


def _write(root: Path, values: np.ndarray, suffix: str = "png") -> Path:
    """Write one image of each class and split, H = W = 20, whose values are those given, in turn."""
    for split in _SPLITS:
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(np.broadcast_to(values, (20, 20, *values.shape)).copy()).save(
                    root / split / name / f"{number}.{suffix}"
                )
    return root


def _view(data: ImageFolder) -> torch.Tensor:
    (images,), _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    return images


def test_gray_is_the_luma_of_the_colors(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60], np.uint8))
    luma = round(0.299 * 200 + 0.587 * 30 + 0.114 * 60)
    torch.testing.assert_close(_view(_folder(root, 1)), torch.full((4, 1, 16, 16), (luma / 255 - 0.5) / 0.25))


def test_four_channels_keep_the_transparency(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60, 90], np.uint8))
    expected = (torch.tensor([200, 30, 60, 90]) / 255 - 0.5) / 0.25
    torch.testing.assert_close(_view(_folder(root, 4, augment=_PLAIN))[0, :, 5, 5], expected)


@pytest.mark.parametrize("channels", [2, 5])
def test_pictures_of_other_channels_than_the_mean_are_refused_before_training(tmp_path: Path, channels: int) -> None:
    root = _write(tmp_path, np.array([200, 30, 60], np.uint8))
    with pytest.raises(ValueError, match=f"has 3 channels of uint8, but mean has {channels} values"):
        _folder(root, channels, augment=_PLAIN).setup("fit")


class Bands(PhotoSource):
    """Images of five bands, of which the first is the class."""

    def __init__(self, type_: type[np.generic] = np.uint8) -> None:
        self.class_names = ["dark", "bright"]
        self.splits = {"train": ([str(i) for i in range(24)], np.arange(24) % 2)}
        self.type = type_

    def read(self, name: str, half: Half | None = None) -> Pixels:
        pixels = np.random.default_rng(int(name)).integers(0, 200, (20, 24, 5)).astype(self.type)
        pixels[..., 0] += 50 * (int(name) % 2)
        return pixels


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than")
@pytest.mark.parametrize("channels", [1, 5])
def test_models_of_other_channels_train(tmp_path: Path, channels: int) -> None:
    if channels == 5:
        shared: dict = {"image_size": 16, "batch_size": 4, "num_workers": 0, "augment": _PLAIN}
        data = ImageFolder(source=Bands(), mean=(0.5,) * 5, std=(0.25,) * 5, **shared)
    else:
        data = _folder(_write(tmp_path, np.array([200, 30, 60], np.uint8)), 1)
    vit = VisionTransformer(16, 8, channels, 2, embed_dim=8, depth=1, num_heads=1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        limit_val_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Supervised(vit, AdamW(lr=1e-3), WarmupCosine()), datamodule=data)
    assert trainer.global_step == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 4}, "augment.rand_augment needs images of 1 or 3 channels"),
        ({"channels": 1, "multi_crop": MultiCrop()}, "multi_crop needs images of 3 channels"),
        ({"channels": 3, "std": (0.5,)}, "need one value per channel"),
    ],
)
def test_what_does_not_go_together_is_rejected(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _folder(tmp_path, **settings)


def test_a_source_of_other_channels_or_deeper_pixels_is_rejected_with_the_name() -> None:
    data = ImageFolder(source=Bands(), num_workers=0, augment=_PLAIN)
    with pytest.raises(ValueError, match="has 5 channels of uint8, but mean has 3 values"):
        next(iter(data.val_dataloader()))
    deep = ImageFolder(source=Bands(np.uint16), num_workers=0, augment=_PLAIN, mean=(0.5,) * 5, std=(0.25,) * 5)
    with pytest.raises(ValueError, match="has 5 channels of uint16"):
        next(iter(deep.val_dataloader()))


def test_a_folder_or_a_source_is_needed() -> None:
    for settings in ({}, {"root": "photos", "source": Bands()}):
        with pytest.raises(ValueError, match="needs one of"):
            ImageFolder(**settings)
