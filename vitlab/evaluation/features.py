"""Embeddings of a split by a frozen encoder.

N images, C the width of the embedding.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vitlab.evaluation.classify import require_classes
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

MOST_PIXELS = 32  # a side

Features = tuple[Tensor, Tensor]
"""Embeddings (N, C) float32 and labels (N,) int64, on the CPU."""


@torch.no_grad()  # not inference_mode: the linear probe backpropagates through products of these
def extract(
    encoder: ImageModel,
    batches: Iterable[tuple[list[Tensor], Tensor]],
    most: int | None = None,
    embed: Callable[[Tensor], Tensor] | None = None,
) -> Features:
    """Embed the images of `batches`, on the encoder's device, in eval mode; stop after `most` images.

    Args:
        embed: What else to read of the encoder than its embedding, from images to (B, C).

    Raises:
        ValueError: the labels are not classes.
    """
    embeddings, labels, seen = [], [], 0
    with in_eval_mode(encoder), encoder.biases_kept():
        for (images,), targets in batches:
            require_classes(targets)
            embeddings.append((embed or encoder.embed)(images).float().cpu())
            labels.append(targets.cpu())
            seen += len(targets)
            if most is not None and seen >= most:
                break
    return torch.cat(embeddings)[:most], torch.cat(labels)[:most]


def extract_pixels(batches: Iterable[tuple[list[Tensor], Tensor]]) -> Features:
    """Return the images of `batches` as `pixels`, and their labels, both on the CPU."""
    rows = [(pixels(images).cpu(), targets.cpu()) for (images,), targets in batches]
    return torch.cat([row for row, _ in rows]), torch.cat([targets for _, targets in rows])


def pixels(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as rows of pixels, at most 32 px a side; for `embed`, to compare features with."""
    side = min(MOST_PIXELS, *images.shape[-2:])
    return interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)
