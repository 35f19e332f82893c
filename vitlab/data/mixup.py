"""Mixup (Zhang et al., 2018, eq. 1) and CutMix (Yun et al., 2019, eq. 1) of a batch, as timm's `Mixup` in batch mode.

Letters: B images, K classes, λ the weight of an image against its partner, image B-1-i.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveInt
from torch import Tensor

from vitlab.data.counter_rng import Stream, host_seed, to_device


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of an image, the ends not included."""

    top: int
    bottom: int
    left: int
    right: int


@dataclass(kw_only=True, unsafe_hash=True)
class Mixup:
    """Settings with the defaults of DeiT and Swin.

    Label smoothing is the loss's: it is linear in the targets, so that smoothing mixed labels equals timm's mixing of
    smoothed labels.

    Args:
        mixup_alpha: λ ~ Beta(alpha, alpha) where two images are blended; 0: off.
        cutmix_alpha: the same for CutMix, where a box of the partner covers 1 - λ of the image; 0: off.
        prob: probability that a batch is mixed.
        switch_prob: probability of CutMix in those if both are on.
        group: even number of images that share λ, box and choice: every k-th image of the global batch, on any number
            of devices. Released code draws for the batch of each device, 16 to 256 images. Null: for the global batch.
    """

    mixup_alpha: NonNegativeFloat = 0.8
    cutmix_alpha: NonNegativeFloat = 1.0
    prob: ClosedUnitInterval = 1.0
    switch_prob: ClosedUnitInterval = 0.5
    group: PositiveInt | None = None


def draw_mixup(
    settings: Mixup, seed: int, epoch: int, first: int, height: int, width: int, group: int | None = None
) -> tuple[float, Box | None]:
    """Return λ and, for CutMix, the box; λ = 1 leaves the images as they are.

    Drawn on the host, without waiting for the device, by the index of the global batch's `first` image and the number
    of the group, the same in all processes. λ is corrected to the area of the box within the image.
    """
    rng = np.random.default_rng(host_seed(seed, epoch, Stream.MIXUP, first, *([] if group is None else [group])))
    mixed, switch = rng.random(2)
    if mixed >= settings.prob:
        return 1.0, None
    if settings.cutmix_alpha == 0 or (settings.mixup_alpha > 0 and switch >= settings.switch_prob):
        return float(rng.beta(settings.mixup_alpha, settings.mixup_alpha)), None

    side = math.sqrt(1 - rng.beta(settings.cutmix_alpha, settings.cutmix_alpha))
    top, bottom = _interval(int(height * side), int(rng.integers(height)), height)
    left, right = _interval(int(width * side), int(rng.integers(width)), width)
    return 1 - (bottom - top) * (right - left) / (height * width), Box(top, bottom, left, right)


def _interval(length: int, center: int, size: int) -> tuple[int, int]:
    """Return the part inside [0, size) of `length` pixels around `center`."""
    return max(center - length // 2, 0), min(center + (length + 1) // 2, size)


def mix_images(images: Float[Tensor, "B C H W"], lam: float, box: Box | None) -> Float[Tensor, "B C H W"]:
    """Blend each image with its partner, or paste the partner's box."""
    partner = images.flip(0)
    if box is None:
        return lam * images + (1 - lam) * partner
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    images = images.clone()
    images[..., rows, columns] = partner[..., rows, columns]
    return images


class Mix(NamedTuple):
    """How each image of a batch is mixed with its partner."""

    blend: Float[Tensor, "B"]  # weight of the image where nothing is pasted
    box: Int64[Tensor, "B 4"]  # top, bottom, left and right of what is pasted
    label: Float[Tensor, "B"]  # weight of the image's class


def draw_groups(
    group: int, places: Int64[np.ndarray, "B"], total: int, draw: Callable[[int], tuple[float, Box | None]]
) -> Mix:
    """Draw λ and box, by the number of the group, once for each `group` images of a global batch of `total`.

    Return those of one process, whose images stand at `places` of the global batch.
    """
    count = max(1, total // group)
    numbers = np.minimum(places, total - 1 - places) % count  # partners in one group, repeats of an image in several
    drawn = [draw(number) for number in range(count)]
    blend = torch.tensor([1.0 if box else lam for lam, box in drawn])
    label = torch.tensor([lam for lam, _ in drawn])
    box = torch.tensor([box or (0, 0, 0, 0) for _, box in drawn])
    return Mix(*(values[torch.from_numpy(numbers)] for values in (blend, box, label)))


def mix_groups(
    images: Float[Tensor, "B C H W"], labels: Int64[Tensor, "B"], num_classes: int, mix: Mix
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B K"]]:
    """Mix each image and its label with its partner's."""
    mix = Mix(*(to_device(values, images.device) for values in mix))
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    top, bottom, left, right = mix.box[:, :, None].unbind(1)  # (B, 1) each
    inside = ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
    blend, partner = mix.blend[:, None, None, None], images.flip(0)
    mixed = torch.where(inside[:, None], partner, blend * images + (1 - blend) * partner)
    return mixed, mix_labels(labels, num_classes, mix.label[:, None])


def mix_labels(labels: Int64[Tensor, "B"], num_classes: int, lam: float | Float[Tensor, "B 1"]) -> Float[Tensor, "B K"]:
    """Return the probabilities λ for the image's class and 1 - λ for its partner's."""
    one_hot = F.one_hot(labels, num_classes).float()
    return lam * one_hot + (1 - lam) * one_hot.flip(0)
