"""Accuracy under common corruptions of growing strength, resolution shift and occlusion, on the images' device.

Noise, blur, contrast and JPEG are ImageNet-C's (Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261;
strengths of the released make_imagenet_c.py), except that the blur's σ is relative to the image's side, for small
images. Resolution is reduced as far as in its "pixelate" and restored, both bicubic. Occlusion is PatchDrop (Naseer et
al. 2021, https://arxiv.org/abs/2105.10497) on a grid that is independent of the model's patches.

Letters: B images, C channels, H rows, W columns, S side.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import gaussian_blur  # type: ignore[import-untyped]

from vitlab.data.augment import BatchF
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.dataset import View

Values = tuple[float, ...]  # of each channel
GRID = 8  # squares per side of the occlusion grid
CLEAN = ("none", 0.0)  # name and strength of no corruption


class Corruption(NamedTuple):
    """A corruption at five increasing strengths, of values from 0 to 1."""

    name: str
    measure: str  # what the strengths are
    strengths: tuple[float, ...]
    apply: Callable[[BatchF, float, Draws], BatchF]


def noise(images: BatchF, sigma: float, draws: Draws) -> BatchF:
    """Add N(0, σ²) to each value, the same draw for an image at every σ."""
    normal = draws.normal(Stream.NOISE, images[0].numel()).view(images.shape)
    return (images + sigma * normal).clamp(0, 1)


def blur(images: BatchF, sigma: float, draws: Draws) -> BatchF:
    """Blur by a Gaussian whose σ is in pixels of an image 224 wide."""
    sigma *= images.shape[-1] / 224
    reach = min(math.ceil(4 * sigma), min(images.shape[-2:]) - 1)  # reflected at the border, so within the image
    return gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)


def contrast(images: BatchF, share: float, draws: Draws) -> BatchF:
    """Scale the difference from each channel's mean."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return mean + share * (images - mean)


def jpeg(images: BatchF, quality: float, draws: Draws) -> BatchF:
    """Compress and decompress by Pillow; other channels than RGB one by one."""
    pixels = (255 * images).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    parts = [pixels] if images.shape[1] == 3 else np.split(pixels, images.shape[1], axis=3)

    def compress(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        flat = image.squeeze(2) if image.shape[2] == 1 else image
        Image.fromarray(flat).save(file, "JPEG", quality=int(quality))
        return np.asarray(Image.open(file, formats=["JPEG"])).reshape(image.shape)

    compressed = np.concatenate([np.stack([compress(image) for image in part]) for part in parts], axis=3)
    return torch.from_numpy(compressed).permute(0, 3, 1, 2).to(images.device) / 255


def resolution(images: BatchF, share: float, draws: Draws) -> BatchF:
    """Reduce both sides to this fraction and enlarge them again."""
    size = images.shape[-2:]
    small = [max(1, round(share * side)) for side in size]
    reduced = F.interpolate(images, small, mode="bicubic", antialias=True)
    return F.interpolate(reduced, size, mode="bicubic").clamp(0, 1)


def occlude(images: BatchF, share: float, draws: Draws) -> BatchF:
    """Fill a fraction of a grid's squares with the mean color; squares of a smaller fraction stay hidden."""
    hidden = occlusion(share, draws).float()
    hidden = F.interpolate(hidden, images.shape[-2:], mode="nearest").bool()  # (B, 1, H, W)
    return torch.where(hidden, images.mean(dim=(2, 3), keepdim=True), images)


def occlusion(share: float, draws: Draws) -> Bool[Tensor, "B 1 S S"]:
    """Return which squares of the grid are hidden, equally many in each image."""
    rank = draws.uniform(Stream.OCCLUSION, GRID**2).argsort(dim=1).argsort(dim=1)
    return (rank < round(share * GRID**2)).view(-1, 1, GRID, GRID)


CORRUPTIONS = (
    Corruption("noise", "σ of the noise", (0.08, 0.12, 0.18, 0.26, 0.38), noise),
    Corruption("blur", "σ of the blur, px of 224", (1, 2, 3, 4, 6), blur),
    Corruption("contrast", "contrast kept", (0.4, 0.3, 0.2, 0.1, 0.05), contrast),
    Corruption("JPEG", "quality", (25, 18, 15, 10, 7), jpeg),
    Corruption("resolution", "resolution kept", (0.6, 0.5, 0.4, 0.3, 0.25), resolution),
    Corruption("occlusion", "squares hidden", (0.1, 0.3, 0.5, 0.7, 0.9), occlude),
)


def accuracies(
    classify: Callable[[Tensor], Tensor],
    batches: Iterable[View],
    corruptions: Sequence[Corruption],
    mean: Values,
    std: Values,
) -> dict[tuple[str, float], float]:
    """Return top-1 accuracy by the name and strength of a corruption, first on the clean images.

    Args:
        classify: from images (B, C, H, W) to logits (B, K).
        batches: of images and labels, in evaluation order, normalized by `mean` and `std`.
    """
    kinds = [(corruption, strength) for corruption in corruptions for strength in corruption.strengths]
    correct = dict.fromkeys([CLEAN, *((corruption.name, strength) for corruption, strength in kinds)], 0)
    images_done = 0
    for (images,), labels in batches:
        indices = images_done + torch.arange(len(images), device=images.device)
        correct[CLEAN] += int((classify(images).argmax(dim=1) == labels).sum())
        for corruption, strength in kinds:  # one at a time: all copies together would fill the memory
            corrupted = corrupt(images, corruption, strength, indices, mean, std)
            correct[corruption.name, strength] += int((classify(corrupted).argmax(dim=1) == labels).sum())
        images_done += len(images)
    return {kind: count / images_done for kind, count in correct.items()}


def corrupt(
    images: BatchF, corruption: Corruption, strength: float, indices: Int64[Tensor, "B"], mean: Values, std: Values
) -> BatchF:
    """Corrupt normalized images, whose places in the split are `indices`, on which alone the draws depend."""
    shift, scale = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (mean, std))
    plain = (images * scale + shift).clamp(0, 1)
    return (corruption.apply(plain, strength, Draws(0, 0, indices)) - shift) / scale


def select_images(batches: Iterable[View], chosen: Int64[np.ndarray, "n"]) -> Iterator[View]:
    """Yield from each batch the images whose positions in the split are chosen."""
    first = 0
    for (images,), labels in batches:
        here = chosen[(chosen >= first) & (chosen < first + len(labels))] - first
        first += len(labels)
        if len(here):
            rows = torch.from_numpy(here).to(labels.device)
            yield [images[rows]], labels[rows]
