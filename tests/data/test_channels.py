"""Photographs of another kind than 8-bit RGB: gray, with transparency, of 16 bits, and from a source of one's own."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from vitlab.data import ImageFolder, MultiCrop, PhotoAugment, PhotoSource
from vitlab.data.decoding import Half, Pixels, read_photo
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


def _sixteen_bits(root: Path) -> Path:
    """Write images of a left and a right half, 160 of 65,535 apart: less than one gray level of 8 bits."""
    values = np.full((20, 20), 30_000, np.uint16)
    values[:, 10:] = 30_160
    for split in _SPLITS:
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                Image.fromarray(values).save(root / split / name / f"{number}.png")
    return root


def test_values_of_16_bits_survive(tmp_path: Path) -> None:
    data = _folder(_sixteen_bits(tmp_path), 1, bits=16, augment=_PLAIN)
    images = _view(data)
    assert images.shape == (4, 1, 16, 16)
    expected = (torch.tensor([30_000, 30_160]) / 65_535 - 0.5) / 0.25
    torch.testing.assert_close(images[0, 0, 8, [0, -1]], expected, atol=1e-5, rtol=0)
    (training,), _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert training.amin() >= expected[0] - 1e-3
    assert len(training[0].unique()) > 1
    assert data.raw_images("val", [0])[0].dtype == np.uint8
    pictures = [Image.open(tmp_path / "val" / "a" / "0.png")]
    torch.testing.assert_close(data.view_of(pictures, torch.device("cpu")), images[:1])


def test_faint_16_bit_images_name_the_setting_that_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("vitlab.data.image_folder.log_rank_zero", lines.append)
    _folder(_sixteen_bits(tmp_path), 1, augment=_PLAIN).setup("test")
    assert any("bits: 16" in line for line in lines)
    lines.clear()
    _folder(tmp_path, 1, bits=16, augment=_PLAIN).setup("test")
    assert not any("16 bits" in line for line in lines)


def test_gray_is_the_luma_of_the_colors(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60], np.uint8))
    luma = round(0.299 * 200 + 0.587 * 30 + 0.114 * 60)
    torch.testing.assert_close(_view(_folder(root, 1)), torch.full((4, 1, 16, 16), (luma / 255 - 0.5) / 0.25))


def test_four_channels_keep_the_transparency(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60, 90], np.uint8))
    expected = (torch.tensor([200, 30, 60, 90]) / 255 - 0.5) / 0.25
    torch.testing.assert_close(_view(_folder(root, 4, augment=_PLAIN))[0, :, 5, 5], expected)


@pytest.mark.parametrize("type_", [np.uint8, np.uint16])
def test_arrays_of_a_folder_keep_all_their_channels(tmp_path: Path, type_: type[np.generic]) -> None:
    most = np.iinfo(type_).max
    values = (np.array([10, 20, 30, 40, 50]) / 255 * most).astype(type_)
    for split, name, number in itertools.product(_SPLITS, "ab", range(4)):
        (tmp_path / split / name).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / split / name / f"{number}.npy", np.broadcast_to(values, (20, 20, 5)))
    data = _folder(tmp_path, 5, augment=_PLAIN, bits=np.iinfo(type_).bits)
    expected = torch.from_numpy((values / most - 0.5) / 0.25).float()
    torch.testing.assert_close(_view(data)[0, :, 5, 5], expected)
    torch.testing.assert_close(data.preprocessing(np.load(tmp_path / "val" / "a" / "0.npy"))[:, 5, 5], expected)


@pytest.mark.parametrize(("channels", "bits"), [(2, 8), (5, 8), (3, 16)])
def test_pictures_of_other_channels_than_the_mean_are_refused_before_training(
    tmp_path: Path, channels: int, bits: int
) -> None:
    root = _write(tmp_path, np.array([200, 30, 60], np.uint8))
    with pytest.raises(
        ValueError, match=f"has 3 channels of 8 bits, but mean has {channels} values and bits is {bits}"
    ):
        _folder(root, channels, bits=bits, augment=_PLAIN).setup("fit")


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 3, 1), np.uint8)])
def test_arrays_that_are_no_picture_are_broken(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"expected \(H, W\) or \(H, W, C\) of uint8 or uint16"):
        read_photo(tmp_path / "a.npy")


class Bands(PhotoSource):
    """Images of five bands, of which the first is the class."""

    def __init__(self, bits: int = 16) -> None:
        self.class_names = ["dark", "bright"]
        self.splits = {"train": ([str(i) for i in range(24)], np.arange(24) % 2)}
        self.type = np.uint16 if bits == 16 else np.uint8

    def read(self, name: str, half: Half | None = None) -> Pixels:
        pixels = np.random.default_rng(int(name)).integers(0, 200, (20, 24, 5)).astype(self.type)
        pixels[..., 0] += 50 * (int(name) % 2)
        return pixels


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers", "ignore:.*smaller than")
@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (1, 16), (5, 8), (5, 16)])
def test_models_of_other_channels_train(tmp_path: Path, channels: int, bits: int) -> None:
    if channels == 5:
        shared: dict = {"image_size": 16, "batch_size": 4, "num_workers": 0, "bits": bits, "augment": _PLAIN}
        data = ImageFolder(source=Bands(bits), mean=(0.5,) * 5, std=(0.25,) * 5, **shared)
    else:
        root = _sixteen_bits(tmp_path)
        data = _folder(root, 1, bits=bits, augment=_PLAIN if bits == 16 else PhotoAugment())
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
        ({"channels": 4}, "augment.rand_augment needs 8-bit images of 1 or 3 channels"),
        ({"channels": 1, "bits": 16}, "augment.rand_augment needs 8-bit images"),
        ({"channels": 1, "multi_crop": MultiCrop()}, "multi_crop needs 8-bit images of 3 channels"),
        ({"channels": 3, "std": (0.5,)}, "one finite value per channel"),
    ],
)
def test_what_does_not_go_together_is_rejected(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _folder(tmp_path, **settings)


def test_a_source_of_other_channels_is_rejected_with_the_name() -> None:
    data = ImageFolder(source=Bands(), num_workers=0, augment=_PLAIN)
    with pytest.raises(ValueError, match="has 5 channels of 16 bits, but mean has 3 values and bits is 8"):
        next(iter(data.val_dataloader()))


def test_a_folder_or_a_source_is_needed() -> None:
    for settings in ({}, {"root": "photos", "source": Bands()}):
        with pytest.raises(ValueError, match="needs either"):
            ImageFolder(**settings)
