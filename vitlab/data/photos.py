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
from torch import Tensor, nn

from vitlab.data.augment import CROP_RATIO, CROP_SCALE, check_probability, check_range, crop_box
from vitlab.data.decoding import Half, Pixels
from vitlab.internals import rand_augment

# timm ignores parts that it does not understand: `-minc1` would be plain RandAugment of another strength.
_RAND_AUGMENT = re.compile(r"rand(-(m|n|mmax)\d+|-inc[01]|-(mstd|p)\d+(\.\d+)?|-t(weights|3a|3aw))*")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Interpolation = Literal["bicubic", "bilinear"]
Picture = Image.Image
Size = int | tuple[int, int]  # of a square, or height and width
Photo = UInt8[Tensor, "C h w"]


@dataclass(kw_only=True, unsafe_hash=True)
class PhotoAugment:
    """Augmentation of photographs, with the defaults of DeiT and Swin.

    Args:
        crop_scale: range of the fraction of the area that is resized to the image.
        crop_ratio: range of that part's width to height.
        interpolation: of resizing.
        antialias: resize crops with a low-pass filter where they shrink, as Pillow does; big_vision has none.
        eval_interpolation: of resizing in evaluation; `area` averages the pixels under each new one. Null: as above.
        flip_prob: probability of mirroring left to right.
        rand_augment: timm's description of a RandAugment (Cubuk et al., 2020); null: off.
        erase_prob: probability of filling a random box with noise.
        transforms: modules of `torchvision.transforms.v2` or of your own, applied in turn to each training image
            (C, H, W) after RandAugment; what they draw is a function of (seed, epoch, image).
    """

    crop_scale: tuple[float, float] = CROP_SCALE
    crop_ratio: tuple[float, float] = CROP_RATIO
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    eval_interpolation: Interpolation | Literal["area"] | None = None
    flip_prob: float = 0.5
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    erase_prob: float = 0.25
    transforms: tuple[nn.Module, ...] = ()

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


def height_and_width(size: Size) -> tuple[int, int]:
    """Return both sides."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


class Framing(NamedTuple):
    """How evaluation crops a picture to `size` pixels: the arguments of `central_crop`."""

    size: Size
    crop_pct: float | None
    interpolation: Interpolation | Literal["area"]


def random_crop(image: Pixels, draw: Sequence[float], size: Size, settings: PhotoAugment) -> Photo:
    """Resize a random part of the image: torchvision's RandomResizedCrop. Takes BOX_DRAWS draws."""
    height, width, _ = image.shape
    box = crop_box(draw, height, width, settings.crop_scale, settings.crop_ratio)
    return resized_box(image, box, size, settings.interpolation, settings.antialias)


def half_will_do(draw: Sequence[float], size: Size, settings: PhotoAugment) -> Half:
    """Return a function of height and width: whether half the resolution is enough for the random crop of `draw`.

    It never is without a low-pass filter. Else it is if the crop still has twice the sides of the result: its PSNR is
    then 51 dB for the median photograph, 46 for the worst twentieth. The box is drawn on the smaller grid, and is the
    same to a pixel of it.
    """

    sides = height_and_width(size)

    def half(height: int, width: int) -> bool:
        box = crop_box(draw, height, width, settings.crop_scale, settings.crop_ratio)
        return settings.antialias and all(side >= 4 * own for side, own in zip(box[2:], sides, strict=True))

    return half


def resized_box(
    image: Pixels, box: Sequence[int], size: Size, interpolation: Interpolation, antialias: bool = True
) -> Photo:
    """Resize a part of the image, given by top, left, height and width."""
    top, left, height, width = box
    part = image[top : top + height, left : left + width]
    return _resize(part, *height_and_width(size), interpolation, antialias)


def central_crop(
    image: Pixels, size: Size, crop_pct: float | None, interpolation: Interpolation | Literal["area"]
) -> Photo:
    """Resize to cover size / crop_pct and crop the center (timm's crop_mode center); None: squash."""
    height, width, rows, columns = _central(image.shape[:2], size, crop_pct)
    return _resize(image, height, width, interpolation)[:, rows, columns]


def _central(shape: Sequence[int], size: Size, crop_pct: float | None) -> tuple[int, int, slice, slice]:
    """Return the height and width to resize to, and the rows and columns to keep."""
    rows, columns = height_and_width(size)
    if crop_pct is None:
        return rows, columns, slice(rows), slice(columns)
    if rows == columns:  # in proportion, truncated as in torchvision
        shorter = math.floor(rows / crop_pct)
        height, width = (int(shorter * side / min(shape)) for side in shape)
    else:  # timm's ResizeKeepRatio
        ratio = min(shape[0] / math.floor(rows / crop_pct), shape[1] / math.floor(columns / crop_pct))
        height, width = round(shape[0] / ratio), round(shape[1] / ratio)
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return height, width, slice(top, top + rows), slice(left, left + columns)


def _resize(
    image: Pixels, height: int, width: int, interpolation: Interpolation | Literal["area"], antialias: bool = True
) -> Photo:
    """Resize with a low-pass filter: Pillow's result in a quarter of its time; one value in 50 is off by one."""
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy())  # torch takes no read-only arrays
    pixels = pixels[None].permute(0, 3, 1, 2)  # (1, C, H, W), channels last in memory, and so is the result
    if interpolation == "area":
        rows, columns = _overlaps(image.shape[0], height), _overlaps(image.shape[1], width)
        return torch.einsum("yh,chw,xw->cyx", rows, pixels[0].float(), columns).round().to(torch.uint8)
    return F.interpolate(pixels, (height, width), mode=interpolation, antialias=antialias, align_corners=False)[0]


def _overlaps(old: int, new: int) -> Float32[Tensor, "new old"]:
    """Return the weight of each old pixel in each new one, as in TensorFlow's `area`."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old)
    inside = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (inside.clamp(min=0) * new / old).float()


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


def transformed(photo: Photo, transforms: Sequence[nn.Module]) -> Photo:
    """Apply transforms in turn.

    Raises:
        ValueError: one changes the shape or the type of the image.
    """
    for transform in transforms:
        result = transform(photo)
        if result.shape != photo.shape or result.dtype != photo.dtype:
            raise ValueError(
                f"augment.transforms: {type(transform).__name__} makes {tuple(result.shape)} {result.dtype} of "
                f"{tuple(photo.shape)} {photo.dtype}; keep shape and type."
            )
        photo = result
    return photo


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
