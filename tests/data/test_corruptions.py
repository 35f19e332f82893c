"""Corruptions: nothing at no strength, worse and worse with it, and the same for every model."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from vitlab.data import Digits
from vitlab.data.corruptions import (
    CORRUPTIONS,
    GRID,
    Corruption,
    contrast,
    corrupt,
    jpeg,
    noise,
    occlude,
    occlusion,
    resolution,
)
from vitlab.data.counter_rng import Draws

DRAWS = Draws(0, 0, torch.arange(32))
NAMES = [corruption.name for corruption in CORRUPTIONS]


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Real digits at 32 px, from 0 to 1."""
    data = Digits(batch_size=32, image_size=32, mean=(0.0,), std=(1.0,))
    (images,), _ = next(data.batches("test", "cpu"))
    return images


@pytest.mark.parametrize(("apply", "strength"), [(noise, 0.0), (contrast, 1.0), (resolution, 1.0), (occlude, 0.0)])
def test_no_strength_changes_nothing(apply, strength: float, images: Tensor) -> None:
    torch.testing.assert_close(apply(images, strength, DRAWS), images, atol=1e-6, rtol=0)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=NAMES)
def test_every_strength_corrupts_more_than_the_one_before(corruption: Corruption, images: Tensor) -> None:
    corrupted_images = [corruption.apply(images, strength, DRAWS) for strength in corruption.strengths]
    errors = [float((x - images).square().mean()) for x in corrupted_images]
    assert len(errors) == 5
    assert errors[0] > 0
    assert all(weaker < stronger for weaker, stronger in pairwise(errors))
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 and x.shape == images.shape for x in corrupted_images)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=NAMES)
def test_an_image_is_corrupted_the_same_in_any_batch(corruption: Corruption, images: Tensor) -> None:
    strength, normalized, places = corruption.strengths[2], (images - 0.3) / 0.4, torch.arange(32)
    whole, *parts = (
        corrupt(part, corruption, strength, indices, (0.3,), (0.4,))
        for n in (32, 5)
        for part, indices in zip(normalized.split(n), places.split(n), strict=True)
    )
    together = torch.cat(parts)
    torch.testing.assert_close(together, whole, atol=1e-5, rtol=0)
    expected = (corruption.apply(images, strength, DRAWS) - 0.3) / 0.4
    torch.testing.assert_close(together, expected, atol=2.0 / 255 / 0.4, rtol=0)  # JPEG rounds to bytes on the way


def test_noise_has_the_deviation_asked_for() -> None:
    gray = torch.full((32, 3, 32, 32), 0.5)
    assert float(noise(gray, 0.08, DRAWS).std()) == pytest.approx(0.08, rel=0.01)  # of 98,304 draws; 6 σ to the ends


def test_occlusion_hides_the_share_asked_for_and_goes_on_hiding_it() -> None:
    little, much = occlusion(0.25, DRAWS), occlusion(0.5, DRAWS)
    assert (little.sum(dim=(1, 2, 3)) == GRID**2 // 4).all()
    assert (much.sum(dim=(1, 2, 3)) == GRID**2 // 2).all()
    assert not (little & ~much).any()
    assert not torch.equal(little[0], little[1])


def test_occlusion_leaves_what_is_not_hidden(images: Tensor) -> None:
    hidden = occlusion(0.5, DRAWS).repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)  # 8 squares of 4 px
    corrupted_images = occlude(images, 0.5, DRAWS)
    assert torch.equal(corrupted_images[~hidden], images[~hidden])
    mean = images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    assert torch.equal(corrupted_images[hidden], mean[hidden])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_images_of_any_channels_are_compressed(channels: int) -> None:
    images = torch.rand(2, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    found = jpeg(images, 95.0, Draws(0, 0, torch.arange(2)))
    assert found.shape == images.shape
    if channels != 3:  # each is a gray picture
        alone = jpeg(images[:, -1:], 95.0, Draws(0, 0, torch.arange(2)))
        assert torch.equal(found[:, -1:], alone)
