"""What a network makes of a split without a trainer: embeddings, predicted classes.

N images, C the width of the embedding.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

MOST_PIXELS = 32  # a side

Batches = Iterable[tuple[list[Tensor], Tensor]]
"""(views, labels) on the device of what reads them, one view each."""
Features = tuple[Tensor, Tensor]
"""Embeddings (N, C) float32 and labels (N,) int64, on the CPU."""


@torch.no_grad()  # not inference_mode: the linear probe backpropagates through products of these
def extract(encoder: ImageModel, batches: Batches, embed: Callable[[Tensor], Tensor] | None = None) -> Features:
    """Embed the images of `batches` in eval mode.

    Args:
        embed: What else to read of the encoder than its embedding, from images to (B, C).

    Raises:
        ValueError: the labels are not classes, or a feature is not finite.
    """
    with in_eval_mode(encoder), encoder.biases_kept():
        found, labels = _collected(batches, lambda images: (embed or encoder.embed)(images).float())
    if broken := int((~found.isfinite()).flatten(1).any(dim=1).sum()):
        raise ValueError(f"The features of {broken} of {len(found)} images are not finite: the weights have diverged.")
    return found, labels


@torch.inference_mode()
def classify(model: ImageModel, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return the predicted class of each image and its label, both (N,); the model is in eval mode.

    Raises:
        ValueError: the labels are not classes.
    """
    with model.biases_kept():
        return _collected(batches, lambda images: model(images).argmax(dim=1))


def extract_pixels(batches: Batches) -> Features:
    """Return the images of `batches` as `pixels`, and their labels."""
    return _collected(batches, pixels)


def _collected(batches: Batches, read: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return what `read` makes of all images and their labels, in order and on the CPU."""
    pairs = []
    for (images,), labels in batches:
        require_classes(labels)
        pairs.append((read(images).cpu(), labels.cpu()))
    found, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return found, labels


def pixels(images: Tensor) -> Tensor:
    """Return images (B, C, H, W) as rows of pixels, at most 32 px a side; for `embed`, to compare features with."""
    side = min(MOST_PIXELS, *images.shape[-2:])
    return interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)


def require_classes(labels: Tensor) -> None:
    """Raise ValueError for labels that are not classes (B,), such as class probabilities or regression targets."""
    if labels.ndim != 1 or labels.is_floating_point():
        shape = ", ".join(["B", *map(str, labels.shape[1:])])
        raise ValueError(
            f"The labels of these data, ({shape}) {str(labels.dtype).removeprefix('torch.')}, are not classes; k-NN, "
            "probes and accuracies need one class per image."
        )
