"""Distortions of batches, against definitions computed image by image, and against torchvision and timm."""

import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandomResizedCrop

from vitlab.data.augment import (
    BOX_DRAWS,
    CROP_RATIO,
    CROP_SCALE,
    BatchAugment,
    crop_box,
    crop_boxes,
    erase,
    erase_boxes,
    flip,
    resize,
    resized_crop,
    shift_and_flip,
)
from vitlab.data.counter_rng import Draws, Stream


def _images(count: int = 64, side: int = 9, channels: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(1, 256, (count, channels, side, side), dtype=np.uint8))


def _draws(count: int, draws: int, stream: Stream = Stream.SHIFT) -> Tensor:
    return Draws(0, 0, torch.arange(count)).uniform(stream, draws)


@pytest.mark.parametrize(("pixels", "prob", "flip_prob"), [(2, 1.0, 0.0), (3, 0.5, 0.5), (0, 0.0, 0.5), (8, 1.0, 1.0)])
def test_images_move_by_whole_pixels_into_black_and_are_then_mirrored(
    pixels: int, prob: float, flip_prob: float
) -> None:
    # One image at a time, by slices: black paper, the image laid on it, mirrored afterwards.
    images, draws = _images(200, side=9)[..., :7], Draws(0, 0, torch.arange(200))
    moved = shift_and_flip(images, draws, pixels, prob, flip_prob)
    decisions = zip(draws.uniform(Stream.SHIFT, 3).tolist(), draws.uniform(Stream.FLIP, 1).tolist(), strict=True)
    for image, result, ((whether, down, right), (mirror,)) in zip(images, moved, decisions, strict=True):
        top, left = (int(u * (2 * pixels + 1)) if whether < prob else pixels for u in (down, right))
        paper = torch.zeros(3, 9 + 2 * pixels, 7 + 2 * pixels, dtype=torch.uint8)
        paper[:, pixels : pixels + 9, pixels : pixels + 7] = image
        expected = paper[:, top : top + 9, left : left + 7]
        assert torch.equal(result, expected.flip(-1) if mirror < flip_prob else expected)


@pytest.mark.parametrize("crop_scale", [None, (1.0, 1.0)])
def test_an_image_is_mirrored_whatever_else_happens(crop_scale: tuple[float, float] | None) -> None:
    # With a random part between shift and flip, here the whole, both are other functions and the result is the same.
    images, draws = _images(400, side=8), Draws(0, 0, torch.arange(400))
    augment = BatchAugment(shift=2, crop_scale=crop_scale, crop_ratio=(1.0, 1.0), flip_prob=0.4)
    assert torch.equal(augment.distort(images, draws), shift_and_flip(images, draws, 2, 1.0, 0.4))
    alone = BatchAugment(crop_scale=crop_scale, crop_ratio=(1.0, 1.0), flip_prob=0.4).distort(images, draws)
    assert torch.equal(alone, flip(images, draws.uniform(Stream.FLIP, 1), 0.4))


def test_crop_boxes_are_distributed_as_torchvisions() -> None:
    # The same law, drawn by torchvision 4,000 times: mean and deviation of each side and corner agree within 3 %.
    ours = torch.stack(crop_boxes(_draws(20_000, BOX_DRAWS, Stream.CROP), 40, 60, CROP_SCALE, CROP_RATIO)).T
    torch.manual_seed(0)
    image = torch.zeros(3, 40, 60)
    theirs = [RandomResizedCrop.get_params(image, list(CROP_SCALE), list(CROP_RATIO)) for _ in range(4000)]
    reference = torch.tensor(theirs, dtype=torch.float)
    assert (ours[:, 0] + ours[:, 2] <= 40).all()
    assert (ours[:, 1] + ours[:, 3] <= 60).all()
    torch.testing.assert_close(ours.mean(0), reference.mean(0), rtol=0.05, atol=0.3)
    torch.testing.assert_close(ours.std(0), reference.std(0), rtol=0.05, atol=0.3)


@pytest.mark.parametrize(("height", "width", "box"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_where_no_crop_fits_the_largest_central_one_is_taken(
    height: int, width: int, box: tuple[int, int, int, int]
) -> None:
    # torchvision's fallback: of the whole area only a strip of ratio 4/3 (3/4) exists; scale (1, 1) never fits.
    boxes = crop_boxes(_draws(5, BOX_DRAWS), height, width, (1.0, 1.0), CROP_RATIO)
    assert {tuple(row) for row in torch.stack(boxes).T.int().tolist()} == {box}


@pytest.mark.parametrize(("height", "width", "scale"), [(533, 400, CROP_SCALE), (10, 100, (1.0, 1.0))])
def test_one_box_on_the_host_is_that_of_the_batch(height: int, width: int, scale: tuple[float, float]) -> None:
    draws = _draws(2000, BOX_DRAWS, Stream.CROP)
    batch = torch.stack(crop_boxes(draws, height, width, scale, CROP_RATIO)).T.int().tolist()
    alone = [list(crop_box(draw, height, width, scale, CROP_RATIO)) for draw in draws.tolist()]
    differ = [(a, b) for a, b in zip(batch, alone, strict=True) if a != b]
    assert len(differ) < 10  # of 2,000: where single precision rounds a half, or the end of a range, to the other side
    assert all(abs(x - y) <= 1 for pair in differ for x, y in zip(*pair, strict=True))


def test_resized_crop_enlarges_the_box() -> None:
    # A picture linear in x and y stays linear under interpolation: each output pixel is known from its coordinates.
    side = 32
    ramp = torch.arange(side) * 4
    images = torch.stack([ramp.expand(side, side), ramp[:, None].expand(side, side)])[None].to(torch.uint8)
    draw = _draws(1, BOX_DRAWS, Stream.CROP)
    top, left, height, width = (int(x) for x in crop_boxes(draw, side, side, (0.3, 0.5), CROP_RATIO))
    out = resized_crop(images, draw, (0.3, 0.5), CROP_RATIO).float()
    centers = (torch.arange(side) + 0.5) / side
    expected_x = 4 * (left + centers * width - 0.5)
    expected_y = 4 * (top + centers * height - 0.5)
    inner = slice(4, -4)  # at the image's border the kernel reaches over the edge
    assert (out[0, 0, inner, inner] - expected_x[inner]).abs().max() <= 1
    assert (out[0, 1, inner, inner] - expected_y[inner, None]).abs().max() <= 1


def test_erased_boxes_are_distributed_as_timms() -> None:
    # The law written out from timm's source with Python's generator: mean and deviation agree within 5 %.
    _, _, height, width = erase_boxes(_draws(20_000, BOX_DRAWS, Stream.ERASE).numpy(), 32, 32)
    rng = random.Random(0)
    sides = []
    while len(sides) < 5000:
        area, aspect = rng.uniform(0.02, 1 / 3) * 1024, math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < 32 and w < 32:
            sides.append((h, w))
    reference = torch.tensor(sides, dtype=torch.float)
    ours = torch.from_numpy(np.stack([height, width], axis=1))
    torch.testing.assert_close(ours.mean(0), reference.mean(0), rtol=0.05, atol=0)
    torch.testing.assert_close(ours.std(0), reference.std(0), rtol=0.05, atol=0)


def test_erasing_fills_one_box_with_normal_noise() -> None:
    # After normalization, noise of mean 0 and deviation 1 (timm's 'pixel'); outside of one rectangle nothing changes.
    images = torch.full((400, 3, 16, 16), 7.0)
    erased = erase(images, Draws(0, 0, torch.arange(400)), prob=0.5)
    hidden = (erased != 7).any(1)  # (B, H, W)
    touched = hidden.flatten(1).any(1)
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.1)
    for mask in hidden[touched]:
        rows, columns = mask.any(1).nonzero().squeeze(1), mask.any(0).nonzero().squeeze(1)
        assert mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    noise = erased.permute(0, 2, 3, 1)[hidden]
    assert noise.mean().abs().item() < 0.02
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_resize_keeps_the_range() -> None:
    # Bicubic interpolation overshoots beside an edge: without the clamp 255 becomes about 270.
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[..., 4:] = 255
    out = resize(images, 20)
    assert out.shape == (1, 1, 20, 20)
    assert out.min() == 0
    assert out.max() == 255
