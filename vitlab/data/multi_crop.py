"""Several views of each image: multi-crop (Caron et al., "Unsupervised learning of visual features by contrasting
cluster assignments", 2020, section 3.3) as the released code of DINO and of MSN makes them.

A view is cut out, mirrored, jittered in color, grayed, blurred and solarized, in this order, each with its
probability. Every number is a function of (seed, epoch, image, view); how it is applied depends on the images only:
small ones in batches on the device, photographs one by one in the workers, by Pillow.

Letters: B images in the batch, V views of each, R = V·B rows, D draws for each, C channels, S pixels a side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as TF  # type: ignore[import-untyped]

from vitlab.data import pillow
from vitlab.data.augment import BOX_DRAWS, CROP_RATIO, crop_boxes, flip
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.decoding import Pixels
from vitlab.data.photos import Interpolation, apply, resized_box

_DRAWS = (BOX_DRAWS, 1, 1, 4, 4, 1, 2, 1)  # of crop, flip, jitter at all, its order, its factors, gray, blur, solarize
_NEUTRAL = (1.0, 1.0, 1.0, 0.0)  # what leaves brightness, contrast, saturation and hue as they are


@dataclass(kw_only=True, unsafe_hash=True)
class Crops:
    """Views of one size.

    Args:
        number: of views of each image.
        size: side in pixels.
        scale: range of the fraction of the image's area that is resized to the view.
        blur_prob: probability of a blur by view; the last one is for all further views.
        solarize_prob: probability of inverting bright pixels, in the same form.
    """

    number: NonNegativeInt
    size: PositiveInt
    scale: tuple[ClosedUnitInterval, ClosedUnitInterval]
    blur_prob: tuple[ClosedUnitInterval, ...]
    solarize_prob: tuple[ClosedUnitInterval, ...] = (0.0,)


class ViewParams(NamedTuple):
    """The augmentation of each of R views."""

    crop: Float[Tensor, "R _"]  # draws: the box depends on the image's size
    flip: Float[Tensor, "R 1"]
    order: Int64[Tensor, "R 4"]  # of the color jitter's operations
    factors: Float[Tensor, "R 4"]  # of brightness, contrast, saturation, hue; 1, 1, 1, 0 where there is no jitter
    gray: Bool[Tensor, "R"]
    radius: Float[Tensor, "R"]  # 0 where there is no blur
    solarize: Bool[Tensor, "R"]


@dataclass(kw_only=True, unsafe_hash=True)
class MultiCrop:
    """Augmentation of each training image, with the defaults of DINO's released code at 224 pixels.

    MSN's: global_crops (2, 224, (0.3, 1.0), (0.5,), (0.0,)), which solarizes nothing, local_crops (10, 96, (0.05, 0.3),
    (0.5,)), interpolation bilinear, saturation 0.4. Small images need smaller sizes and a smaller blur radius.

    Args:
        global_crops: views of large parts, which come first in a batch; smaller than the data's image_size, with which
            the model is built and evaluated, where training is to be cheaper.
        local_crops: views of small parts, all after them.
        ratio: range of a part's width to height.
        interpolation: of resizing.
        flip_prob: probability of mirroring left to right.
        brightness: b; the factor is in 1 - b … 1 + b.
        contrast: the same for contrast.
        saturation: the same for saturation.
        hue: largest turn either way, as a fraction of the circle.
        jitter_prob: probability of these four changes, in random order.
        gray_prob: probability of removing the colors.
        blur_radius: range of the Gaussian's standard deviation in pixels of the view.
    """

    global_crops: Crops = Crops(number=2, size=224, scale=(0.4, 1.0), blur_prob=(1.0, 0.1), solarize_prob=(0.0, 0.2))
    local_crops: Crops = Crops(number=8, size=96, scale=(0.05, 0.4), blur_prob=(0.5,))
    ratio: tuple[PositiveFloat, PositiveFloat] = CROP_RATIO
    interpolation: Interpolation = "bicubic"
    flip_prob: ClosedUnitInterval = 0.5
    brightness: NonNegativeFloat = 0.4
    contrast: NonNegativeFloat = 0.4
    saturation: NonNegativeFloat = 0.2
    hue: ClosedUnitInterval = 0.1
    jitter_prob: ClosedUnitInterval = 0.8
    gray_prob: ClosedUnitInterval = 0.2
    blur_radius: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)

    def __post_init__(self) -> None:
        if self.global_crops.number < 1:
            raise ValueError("multi_crop.global_crops.number is 0; the target is a global view: give 1 or more.")

    @property
    def kinds(self) -> tuple[Crops, ...]:
        """Global, then local: the order of the views in a batch. A kind of which there are none is left out."""
        return tuple(crops for crops in (self.global_crops, self.local_crops) if crops.number > 0)

    def draw(self, draws: Draws) -> Float[Tensor, "V B D"]:
        """Draw what decides the views of each image."""
        number = sum(crops.number for crops in self.kinds)
        return draws.uniform(Stream.VIEW, number * sum(_DRAWS)).unflatten(1, (number, -1)).transpose(0, 1)

    def params_of(self, draw: Float[Tensor, "V B D"]) -> Iterator[tuple[Crops, ViewParams]]:
        """Turn draws into parameters of the views, one kind of crop after the other, its R rows view by view."""
        for crops, rows in zip(self.kinds, draw.split([crops.number for crops in self.kinds]), strict=True):
            cut, mirror, jittered, order, factors, gray, blurred, solarized = rows.split(_DRAWS, dim=-1)
            strengths = (self.brightness, self.contrast, self.saturation)
            ranges = [(max(0, 1 - strength), 1 + strength) for strength in strengths] + [(-self.hue, self.hue)]
            chosen = jittered[..., 0] < self.jitter_prob
            changes = [
                neutral + chosen * (low - neutral + u * (high - low))
                for u, (low, high), neutral in zip(factors.unbind(-1), ranges, _NEUTRAL, strict=True)
            ]
            low, high = self.blur_radius
            radius = _below(blurred[..., 0], crops.blur_prob) * (low + blurred[..., 1] * (high - low))
            solar, factors = _below(solarized[..., 0], crops.solarize_prob), torch.stack(changes, dim=-1)
            parts = cut, mirror, order.argsort(dim=-1), factors, gray[..., 0] < self.gray_prob, radius, solar
            yield crops, ViewParams(*(each.flatten(0, 1) for each in parts))

    def views_of_batch(self, images: UInt8[Tensor, "B C H W"], draws: Draws) -> list[Float[Tensor, "B C _ _"]]:
        height, width = images.shape[-2:]
        found = list[Tensor]()
        for crops, params in self.params_of(self.draw(draws)):
            boxes = crop_boxes(params.crop, height, width, crops.scale, self.ratio)
            copies = images.float().repeat(crops.number, 1, 1, 1)
            views = pillow.resized_boxes(copies, *boxes, crops.size, cubic=self.interpolation == "bicubic")
            views = flip(views, params.flip, self.flip_prob)
            views = pillow.jitter(views, params.order, params.factors)
            views = torch.where(params.gray[:, None, None, None], pillow.to_gray(views), views)
            if max(crops.blur_prob) > 0:
                views = pillow.blur(views, params.radius, self.blur_radius[1])
            if max(crops.solarize_prob) > 0:
                views = pillow.solarize(views, params.solarize)
            found += views.chunk(crops.number)
        return found

    def views_of_photo(self, image: Pixels, draw: Float[Tensor, "V 1 D"]) -> list[UInt8[Tensor, "C _ _"]]:
        """Return the views of one photograph, global ones first, by its row of the batch's draws."""
        height, width, _ = image.shape
        views = []
        for crops, params in self.params_of(draw):
            boxes = torch.stack(crop_boxes(params.crop, height, width, crops.scale, self.ratio), dim=1)
            for box, (mirror,), *rest in zip(boxes.int().tolist(), *(x.tolist() for x in params[1:]), strict=True):
                view = resized_box(image, box, crops.size, self.interpolation)
                view = view.flip(-1) if mirror < self.flip_prob else view
                views.append(apply(partial(_distort, *rest), view))
        return views


_JITTER = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)


def _distort(
    order: list[int], factors: list[float], gray: bool, radius: float, solarize: bool, picture: Image.Image
) -> Image.Image:
    """Do to one view what `views_of_batch` does to many, with the operations of Pillow and torchvision."""
    for operation in order:
        if factors[operation] != _NEUTRAL[operation]:
            picture = _JITTER[operation](picture, factors[operation])
    if gray:
        picture = picture.convert("L").convert("RGB")
    if radius > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    return ImageOps.solarize(picture) if solarize else picture


def _below(draw: Float[Tensor, "V B"], probabilities: Sequence[float]) -> Bool[Tensor, "V B"]:
    """Compare draws with each view's probability; the last one is for all further views."""
    last = len(probabilities) - 1
    return torch.stack([row < probabilities[min(view, last)] for view, row in enumerate(draw)])
