"""Augmentation of whole batches of images, on their device.

Functions are exact in the images and numbers drawn from U[0, 1), one row per image; those that take `draws` draw them.
Shifting and erasing draw on the host, which selects what the device moves. None synchronizes a GPU.

Letters: B images, C channels, H rows, W columns, D draws for each image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from vitlab.data.counter_rng import Draws, Stream, to_device
from vitlab.data.decoding import Size

CROP_SCALE = (0.08, 1.0)  # fraction of the area: Szegedy et al., "Going deeper with convolutions", section 6
CROP_RATIO = (3 / 4, 4 / 3)  # width to height
ERASE_SCALE = (0.02, 1 / 3)  # fraction of the area; with ERASE_RATIO, height to width, timm's, from Zhong et al., 2017
ERASE_RATIO = (0.3, 1 / 0.3)
_TRIES = 10  # boxes drawn until one fits, in torchvision's random crop and in timm's erasing
BOX_DRAWS = 4 * _TRIES

Batch8 = UInt8[Tensor, "B C H W"]
BatchF = Float[Tensor, "B C H W"]
Rows = Float[Tensor, "B D"]
HostRows = Float[np.ndarray, "B D"]
HostColumn = Float[np.ndarray, "B"]
PerImage = Float[Tensor, "B"]
PerChannel = Float[Tensor, "C 1 1"]


@dataclass(kw_only=True, unsafe_hash=True)
class BatchAugment:
    """Augmentation of small images, in batches on the device, before they are normalized (erasing: after).

    Args:
        shift: largest shift in pixels in each direction; the border becomes black.
        shift_prob: probability of a shift.
        crop_scale: range of the fraction of the area that is enlarged to the image, e.g. [0.08, 1.0]; null: off.
        crop_ratio: range of that part's width to height.
        flip_prob: probability of mirroring left to right.
        erase_prob: probability of filling a random box with noise.
    """

    shift: NonNegativeInt = 0
    shift_prob: ClosedUnitInterval = 1.0
    crop_scale: tuple[ClosedUnitInterval, ClosedUnitInterval] | None = None
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = CROP_RATIO
    flip_prob: ClosedUnitInterval = 0.0
    erase_prob: ClosedUnitInterval = 0.0

    def distort(self, images: Batch8, draws: Draws) -> Batch8:
        """Shift, crop and flip, each where it is on."""
        flip_now = self.flip_prob if self.crop_scale is None else 0.0
        if (self.shift > 0 and self.shift_prob > 0) or flip_now > 0:
            images = shift_and_flip(images, draws, self.shift, self.shift_prob, flip_now)
        if self.crop_scale is None:
            return images
        images = resized_crop(images, draws.uniform(Stream.CROP, BOX_DRAWS), self.crop_scale, self.crop_ratio)
        return flip(images, draws.uniform(Stream.FLIP, 1), self.flip_prob) if self.flip_prob > 0 else images


@dataclass(kw_only=True, unsafe_hash=True)
class Growth:
    """Training images that grow over the run: small ones, of fewer tokens, are cheap while it learns what is coarse.

    Progressive resizing, as in EfficientNetV2 (Tan and Le 2021, https://arxiv.org/abs/2104.00298, section 4).

    Args:
        start: side in pixels at first.
        step: pixels by which it grows each time, a multiple of the model's patch.
        until: fraction of the run after which images have `image_size`; smaller sizes get equal shares before it.
    """

    start: PositiveInt
    step: PositiveInt
    until: ClosedUnitInterval = 0.6

    def sides(self, image_size: int) -> list[int]:
        return [*range(self.start, image_size, self.step), image_size]

    def side(self, image_size: int, progress: float) -> int:
        sides = self.sides(image_size)
        return sides[min(int(progress / self.until * (len(sides) - 1)), len(sides) - 1)]

    def shares(self, image_size: int) -> dict[Size, float]:
        """Return the fraction of the run for which each side is used."""
        sides: list[Size] = [*self.sides(image_size)]
        return {side: self.until / (len(sides) - 1) for side in sides[:-1]} | {image_size: 1 - self.until}


def shift_and_flip(images: Batch8, draws: Draws, pixels: int, prob: float, flip_prob: float) -> Batch8:
    """Move `prob` of the images by whole numbers of pixels, black coming in, and then mirror `flip_prob` of them.

    Each of -pixels … pixels is equally likely, down and right: He et al. (2016), section 4.2. In the memory of a padded
    channel a shifted image is one window of length H·wide; the same holds in a mirrored copy. So both are one gather of
    windows, chosen on the host, where NumPy takes half of torch's time for so few numbers.
    """
    B, C, H, W = images.shape
    host = draws.on_host
    draw, mirror = host.uniform(Stream.SHIFT, 3).numpy(), host.uniform(Stream.FLIP, 1).numpy()
    offsets = np.where(draw[:, :1] < prob, (draw[:, 1:] * (2 * pixels + 1)).astype(np.int64), pixels)
    top, left = offsets.T  # (B,) each, of the window, in 0 … 2·pixels; `pixels` means unshifted
    mirrored = mirror[:, 0] < flip_prob

    wide, tall = W + 2 * pixels, H + 2 * pixels + 1  # a row more below, for the end of the last window
    copies = [images, images.flip(-1)] if flip_prob > 0 else [images]
    padded = images.new_zeros(len(copies), B, C, tall, wide)
    for copy, place in zip(copies, padded[..., pixels : pixels + H, pixels : pixels + W], strict=True):
        place.copy_(copy)
    windows = padded.as_strided((padded.numel() - H * wide + 1, H * wide), (1, 1))
    channel = (np.arange(B) + B * mirrored)[:, None] * C + np.arange(C)  # (B, C), counted through `padded`
    corner = top * wide + np.where(mirrored, 2 * pixels - left, left)
    starts = torch.from_numpy((channel * (tall * wide) + corner[:, None]).ravel())
    return windows.index_select(0, to_device(starts, images.device)).view(B, C, H, wide)[..., :W]


def flip(images: Batch8 | BatchF, draw: Rows, prob: float) -> Batch8 | BatchF:
    """Mirror `prob` of the images left to right. Takes one draw."""
    mirrored = len(images) * (draw[:, 0] < prob) + torch.arange(len(images), device=images.device)
    return torch.cat([images, images.flip(-1)]).index_select(0, mirrored)  # of whole images: faster than torch.where


def crop_boxes(
    draw: Rows, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[PerImage, PerImage, PerImage, PerImage]:
    """Return top, left, height and width in whole pixels of random parts, as torchvision's RandomResizedCrop.

    Takes area, ratio, top and left of ten tries. If none fits: the largest centered part of a permitted ratio.
    """
    area, aspect, top, left = draw.unflatten(1, (_TRIES, 4)).unbind(2)  # each (B, T)
    area = (scale[0] + area * (scale[1] - scale[0])) * height * width
    aspect = (math.log(ratio[0]) + aspect * math.log(ratio[1] / ratio[0])).exp()
    w = (area * aspect).sqrt().round()
    h = (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    tops = (top * (height - h + 1)).floor()
    lefts = (left * (width - w + 1)).floor()

    central_w = min(width, round(height * ratio[1]))
    central_h = min(height, round(width / ratio[0]))
    central = ((height - central_h) // 2, (width - central_w) // 2, central_h, central_w)
    last = torch.ones_like(fits[:, :1])  # the central part fits
    first = torch.cat([fits, last], dim=1).int().argmax(dim=1, keepdim=True)  # the first of equal maxima
    top, left, h, w = (
        torch.cat([tries, torch.full_like(tries[:, :1], fallback)], dim=1).gather(1, first)[:, 0]
        for tries, fallback in zip((tops, lefts, h, w), central, strict=True)
    )
    return top, left, h, w


def crop_box(
    draw: Sequence[float], height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return one row of `crop_boxes` on the host, a hundred times as fast as tensors of one row.

    Numbers are in double precision, so that one box in thousands is a pixel longer or shorter.
    """
    for first in range(0, BOX_DRAWS, 4):
        area, aspect, top, left = draw[first : first + 4]
        area = (scale[0] + area * (scale[1] - scale[0])) * height * width
        aspect = math.exp(math.log(ratio[0]) + aspect * math.log(ratio[1] / ratio[0]))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(top * (height - h + 1)), int(left * (width - w + 1)), h, w
    w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
    return (height - h) // 2, (width - w) // 2, h, w


def resized_crop(images: Batch8, draw: Rows, scale: tuple[float, float], ratio: tuple[float, float]) -> Batch8:
    """Enlarge a random part of each image to its full size, bicubic; the kernel sees the pixels just outside it."""
    H, W = images.shape[-2:]
    top, left, h, w = crop_boxes(draw, H, W, scale, ratio)
    theta = torch.zeros(len(images), 2, 3, device=images.device)  # from output to input, both in -1 … 1
    theta[:, 0, 0] = w / W
    theta[:, 0, 2] = (2 * left + w) / W - 1
    theta[:, 1, 1] = h / H
    theta[:, 1, 2] = (2 * top + h) / H - 1
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    out = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return out.round().clamp(0, 255).to(torch.uint8)


def erase_boxes(draw: HostRows, height: int, width: int) -> tuple[HostColumn, HostColumn, HostColumn, HostColumn]:
    """Return top, left, height and width of the boxes to erase, as timm draws them; height 0 if no try fits."""
    area, aspect, top, left = np.moveaxis(draw.reshape(-1, _TRIES, 4), 2, 0)  # each (B, T)
    area = (ERASE_SCALE[0] + area * (ERASE_SCALE[1] - ERASE_SCALE[0])) * (height * width)
    aspect = np.exp(math.log(ERASE_RATIO[0]) + aspect * math.log(ERASE_RATIO[1] / ERASE_RATIO[0]))
    h, w = np.sqrt(area * aspect).round(), np.sqrt(area / aspect).round()
    fits = (h < height) & (w < width)
    first = np.arange(len(draw)), fits.argmax(axis=1)  # the first of equal maxima
    top, left, h, w = top[first], left[first], h[first] * fits[first], w[first]
    return np.floor(top * (height - h + 1)), np.floor(left * (width - w + 1)), h, w


def erase(images: BatchF, draws: Draws, prob: float) -> BatchF:
    """Fill one random box in `prob` of the *normalized* images with N(0, 1) noise: timm's erasing, mode 'pixel'.

    May overwrite the images. The host computes the boxes, so that noise is drawn for their pixels alone.
    """
    C, H, W = images.shape[1:]
    draw = draws.on_host.uniform(Stream.ERASE, 1 + BOX_DRAWS).numpy()
    chosen = np.flatnonzero(draw[:, 0] < prob)  # (R,)
    top, left, h, w = (x[:, None] for x in erase_boxes(draw[chosen, 1:], H, W))
    rows, columns = np.arange(H), np.arange(W)
    down = (rows >= top) & (rows < top + h)  # (R, H)
    across = (columns >= left) & (columns < left + w)  # (R, W)
    image, pixel = np.divmod(np.flatnonzero(down[:, :, None] & across[:, None, :]), H * W)  # (N,) each

    image, pixel = to_device(torch.from_numpy(np.stack([chosen[image], pixel])), images.device)
    noise = draws.normal_at(Stream.ERASE_NOISE, image, pixel, C).to(images.dtype)  # (N, C)
    places = (C * H * W * image + pixel)[:, None] + H * W * torch.arange(C, device=images.device)  # (N, C) of B·C·H·W
    images = images.contiguous()
    images.view(-1).index_copy_(0, places.flatten(), noise.flatten())
    return images


def resize(images: Batch8, size: int | tuple[int, int]) -> Float[Tensor, "B C h w"]:
    """Resize images, bicubic, with a low-pass filter where they shrink; values are clamped to 0 … 255."""
    size = (size, size) if isinstance(size, int) else size
    out = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    return out.clamp(0, 255)


def normalize(images: Batch8 | BatchF, mean: PerChannel, std: PerChannel) -> BatchF:
    """Normalize images in 0 … 255 by mean and std on the scale 0 … 1."""
    if images.dtype != torch.uint8:
        return (images / 255 - mean) / std
    return images.to(torch.float32, memory_format=torch.contiguous_format).sub_(255 * mean).div_(255 * std)
