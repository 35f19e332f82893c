"""Color jitter of batches: torchvision's ColorJitter as timm sets it up, on Pillow's pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import functional as TF  # type: ignore[import-untyped]

from vitlab.data import BatchAugment, Digits, ImageFolder
from vitlab.data.augment import color_jitter
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.photos import PhotoAugment

STRENGTH = 0.4
OPERATIONS = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation)


def colors(count: int, size: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draws_for(count: int, epoch: int = 0) -> Draws:
    return Draws(0, epoch, torch.arange(count))


def test_each_image_is_changed_as_torchvision_changes_pictures() -> None:
    images, draws = colors(40), draws_for(40)
    ours = color_jitter(images, draws, STRENGTH)
    draw = draws.uniform(Stream.JITTER, 6)
    for image, changed, row in zip(images, ours, draw, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        for operation in row[3:].argsort().tolist():
            factor = 1 - STRENGTH + float(row[operation]) * 2 * STRENGTH
            picture = OPERATIONS[operation](picture, factor)
        difference = np.array(picture).astype(int) - changed.permute(1, 2, 0).numpy()
        # A product that ends just below a whole number is cut off to another one in single than in double precision.
        assert np.abs(difference).max() <= 1
        assert np.mean(difference != 0) < 0.01


def looks(images: Tensor) -> np.ndarray:
    """Return brightness, contrast and saturation of each image, (B, 3)."""
    x = images.double()
    gray = x.mean(dim=1)
    return torch.stack([x.mean((1, 2, 3)), gray.std((1, 2)), (x.amax(1) - x.amin(1)).mean((1, 2))], dim=1).numpy()


def test_looks_are_distributed_as_timms() -> None:
    count = 1500
    image = colors(1) // 2 + 40  # of few values that are cut off at 0 and 255
    # Whole images, neither cut nor mirrored: of timm's training pipeline its color jitter alone.
    settings: dict[str, Any] = {"input_size": 16, "is_training": True, "scale": (1, 1), "ratio": (1, 1), "hflip": 0.0}
    timms = create_transform(**settings, color_jitter=STRENGTH, interpolation="bicubic", use_prefetcher=True)
    picture = Image.fromarray(image[0].permute(1, 2, 0).numpy())
    torch.manual_seed(0)
    theirs = looks(torch.stack([torch.as_tensor(np.asarray(timms(picture))) for _ in range(count)]))
    ours = looks(color_jitter(image.repeat(count, 1, 1, 1), draws_for(count), STRENGTH))
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-3
    narrower = looks(color_jitter(image.repeat(count, 1, 1, 1), draws_for(count), 0.6 * STRENGTH))
    assert all(ks_2samp(a, b).pvalue < 1e-6 for a, b in zip(narrower.T, theirs.T, strict=True))  # it can tell


def test_a_jitter_is_of_the_image_and_the_epoch_alone() -> None:
    images = colors(6)
    whole = color_jitter(images, draws_for(6), STRENGTH)
    part = color_jitter(images[3:], Draws(0, 0, torch.arange(3, 6)), STRENGTH)
    torch.testing.assert_close(whole[3:], part, rtol=0, atol=0)
    assert not torch.equal(whole, color_jitter(images, draws_for(6, epoch=1), STRENGTH))


def test_nothing_happens_where_it_is_off() -> None:
    images = colors(2)
    assert color_jitter(images, draws_for(2), 0.0) is images
    assert BatchAugment().color_jitter == PhotoAugment().color_jitter == 0.0


def test_images_without_colors_change_brightness_and_contrast() -> None:
    gray = colors(8)[:, :1]
    changed = color_jitter(gray, draws_for(8), STRENGTH)
    assert changed.shape == gray.shape
    assert all(not torch.equal(a, b) for a, b in zip(changed, gray, strict=True))


def test_training_images_are_jittered_and_no_others(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / ("a", "b")[number % 2] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(colors(1)[0].permute(1, 2, 0).numpy()).save(path)
    photos = {"root": str(tmp_path), "image_size": 16, "batch_size": 4, "num_workers": 0, "val_fraction": 0.2}
    unmoved: dict[str, Any] = {"crop_scale": (1.0, 1.0), "flip_prob": 0.0, "rand_augment": None, "erase_prob": 0.0}

    def folder(strength: float) -> ImageFolder:
        return ImageFolder(**photos, augment=PhotoAugment(**unmoved, color_jitter=strength))  # type: ignore[arg-type]

    def digits(strength: float) -> Digits:
        return Digits(batch_size=8, augment=BatchAugment(color_jitter=strength))

    cpu = torch.device("cpu")
    for make in (folder, digits):
        ((plain,), _), _ = make(0.0).training_batch(0, 0, cpu)
        ((jittered,), _), _ = make(STRENGTH).training_batch(0, 0, cpu)
        assert all(not torch.equal(a, b) for a, b in zip(plain, jittered, strict=True))
        ((plain,), _) = next(make(0.0).batches("val", cpu))
        ((same,), _) = next(make(STRENGTH).batches("val", cpu))
        torch.testing.assert_close(plain, same, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [BatchAugment, PhotoAugment])
def test_a_strength_below_zero_is_refused(settings: type) -> None:
    with pytest.raises(ValueError, match=r"augment.color_jitter is -0.4; it is 0 \(off\) or more"):
        settings(color_jitter=-0.4)
