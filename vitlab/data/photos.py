"""Augmentation of single photographs in the workers: they are large and differ in size until they are cropped.

Every random number is a function of (seed, epoch, image): crop and flip take theirs as arguments; timm's RandAugment
draws from the global generators, which are seeded for the image and then restored.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from vitlab.data.augment import CROP_RATIO, CROP_SCALE, check_probability, check_range, crop_box
from vitlab.data.decoding import Half, Pixels
from vitlab.internals import rand_augment

# timm ignores parts that it does not understand: `-minc1` would be plain RandAugment of another strength.
_RAND_AUGMENT = re.compile(r"rand(-(m|n|mmax)\d+|-inc[01]|-(mstd|p)\d+(\.\d+)?|-t(weights|3a|3aw))*")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Interpolation = Literal["bicubic", "bilinear"]
Picture = Image.Image
Photo = UInt8[Tensor, "C H W"] | Float32[Tensor, "C H W"]  # 0 … 255; floats with 16 bits of precision


@dataclass(kw_only=True, unsafe_hash=True)
class PhotoAugment:
    """Augmentation of photographs, with the defaults of DeiT and Swin.

    Args:
        crop_scale: range of the fraction of the area that is resized to the image.
        crop_ratio: range of that part's width to height.
        interpolation: of resizing, in evaluation too.
        flip_prob: probability of mirroring left to right.
        rand_augment: timm's description of a RandAugment (Cubuk et al., 2020); null: off.
        erase_prob: probability of filling a random box with noise.
    """

    crop_scale: tuple[float, float] = CROP_SCALE
    crop_ratio: tuple[float, float] = CROP_RATIO
    interpolation: Interpolation = "bicubic"
    flip_prob: float = 0.5
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    erase_prob: float = 0.25

    def __post_init__(self) -> None:
        check_range("augment.crop_scale", self.crop_scale, most=1.0)
        check_range("augment.crop_ratio", self.crop_ratio)
        check_probability("augment.flip_prob", self.flip_prob)
        check_probability("augment.erase_prob", self.erase_prob)
        if self.rand_augment is not None and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            raise ValueError(
                f"augment.rand_augment is {self.rand_augment!r}; write rand and any of -m9 (magnitude), -n2 (layers), "
                "-p0.5, -mstd0.5, -mmax10, -inc1, -t3a, e.g. rand-m9-mstd0.5-inc1, or null for none."
            )


class Framing(NamedTuple):
    """How evaluation crops a square of `size` pixels: the arguments of `central_crop`."""

    size: int
    crop_pct: float | None
    interpolation: Interpolation


def random_crop(image: Pixels, draw: Sequence[float], size: int, settings: PhotoAugment) -> Photo:
    """Resize a random part of the image: torchvision's RandomResizedCrop. Takes BOX_DRAWS draws."""
    height, width, _ = image.shape
    box = crop_box(draw, height, width, settings.crop_scale, settings.crop_ratio)
    return resized_box(image, box, size, settings.interpolation)


def half_will_do(draw: Sequence[float], size: int, settings: PhotoAugment) -> Half:
    """Return a function of height and width: whether half the resolution is enough for the random crop of `draw`.

    It is if the crop still has twice the sides of the result: its PSNR is then 51 dB for the median photograph, 46 for
    the worst twentieth. The box is drawn on the smaller grid, and is the same to a pixel of it.
    """

    def half(height: int, width: int) -> bool:
        box = crop_box(draw, height, width, settings.crop_scale, settings.crop_ratio)
        return min(box[2:]) >= 4 * size

    return half


def resized_box(image: Pixels, box: Sequence[int], size: int, interpolation: Interpolation) -> Photo:
    """Resize a part of the image, given by top, left, height and width, to size x size."""
    top, left, height, width = box
    return _resize(image[top : top + height, left : left + width], size, size, interpolation)


def central_crop(image: Pixels, size: int, crop_pct: float | None, interpolation: Interpolation) -> Photo:
    """Resize the shorter side to size / crop_pct and crop the center (timm's crop_mode center); None: squash."""
    if crop_pct is None:
        return _resize(image, size, size, interpolation)
    height, width = _sides(image, math.floor(size / crop_pct))
    left, top = round((width - size) / 2), round((height - size) / 2)
    return _resize(image, height, width, interpolation)[:, top : top + size, left : left + size]


def shrunk(image: Pixels, shorter: int) -> Pixels:
    """Reduce the shorter side to a number of pixels, as `central_crop` does; a smaller image stays as it is."""
    if min(image.shape[:2]) <= shorter:
        return image
    return _resize(image, *_sides(image, shorter), "bicubic").permute(1, 2, 0).contiguous().numpy()


def _sides(image: Pixels, shorter: int) -> tuple[int, int]:
    """Return height and width in proportion, truncated as in torchvision."""
    height, width, _ = image.shape
    return int(shorter * height / min(height, width)), int(shorter * width / min(height, width))


def _resize(image: Pixels, height: int, width: int, interpolation: Interpolation) -> Photo:
    """Resize with a low-pass filter: Pillow's result in a quarter of its time; one value in 50 is off by one."""
    if image.dtype == np.uint16:
        image = image.astype(np.float32) / 257
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy())  # torch takes no read-only arrays
    pixels = pixels[None].permute(0, 3, 1, 2)  # (1, C, H, W), channels last in memory, and so is the result
    resized = F.interpolate(pixels, (height, width), mode=interpolation, antialias=True, align_corners=False)[0]
    return resized.clamp(0, 255) if resized.is_floating_point() else resized


def apply(transform: Callable[[Picture], Picture], photo: Photo) -> Photo:
    """Apply a function of Pillow's images to a tensor of one or three channels."""
    pixels = photo.permute(1, 2, 0).contiguous().numpy()
    result = np.array(transform(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)))
    return torch.from_numpy(result.reshape(*result.shape[:2], -1)).permute(2, 0, 1)


def make_rand_augment(
    settings: PhotoAugment, size: int, mean: tuple[float, ...]
) -> Callable[[Picture], Picture] | None:
    """Return RandAugment as timm's training pipeline configures it, or None where it is off.

    Raises:
        ValueError: more layers than operations; a weighted choice takes each at most once.
    """
    description = settings.rand_augment
    if description is None:
        return None
    parameters: dict[str, Any] = {
        "translate_const": int(0.45 * size),
        "img_mean": tuple(min(255, round(255 * x)) for x in mean),
        "interpolation": _FILTERS[settings.interpolation],
    }
    transform, most_layers = rand_augment(description, parameters)
    if most_layers is not None and transform.num_layers > most_layers:
        raise ValueError(
            f"augment.rand_augment is {description!r}, but each of the {most_layers} weighted operations is "
            f"applied at most once; write -n{most_layers} or less."
        )
    return transform


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, and restore them.

    Without workers, dropout in the same process draws from these generators.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (timm draws from this one)
    torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the GPU's generator alone
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
