"""What a network makes of a split without a trainer: embeddings, predicted classes; and the spread of the embeddings.

N images, C the width of the embedding.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

MOST_PIXELS = 32  # a side

Batches = Iterable[tuple[list[Tensor], Tensor]]
"""(views, labels) on the device of what reads them, one view each."""
Features = tuple[Tensor, Tensor]
"""Embeddings (N, C) float32 and labels (N,) int64, on the CPU."""


@torch.no_grad()  # not inference_mode: the linear probe backpropagates through products of these
def extract(encoder: ImageModel, batches: Batches, embed: Callable[[Tensor], Tensor] | None = None) -> Features:
    """Embed the images of `batches` in eval mode, by the encoder or by `embed`, from images to (B, C)."""
    with in_eval_mode(encoder), encoder.biases_kept():
        found, labels = collected(batches, lambda images: (embed or encoder.embed)(images).float())
    if broken := int((~found.isfinite()).flatten(1).any(dim=1).sum()):
        raise ValueError(f"The features of {broken} of {len(found)} images are not finite: the weights have diverged.")
    return found, labels


@torch.inference_mode()
def classify(model: ImageModel, batches: Batches) -> tuple[Tensor, Tensor]:
    """Return the predicted class of each image and its label, both (N,); the model is in eval mode."""
    with model.biases_kept():
        return collected(batches, lambda images: model(images).argmax(dim=1))


def collected(batches: Batches, read: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
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
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True).flatten(1)


def require_classes(labels: Tensor) -> None:
    """Raise ValueError for labels that are not classes (B,), such as class probabilities or regression targets."""
    if labels.ndim != 1 or labels.is_floating_point():
        shape = ", ".join(["B", *map(str, labels.shape[1:])])
        raise ValueError(f"Labels ({shape}) {labels.dtype} are not one class per image, which k-NN and probes need.")


def rank_me(features: Float[Tensor, "N C"]) -> float:
    """Return RankMe, the effective number of dimensions, from 1 to C (Garrido et al. 2023, equations 1 and 2).

    exp(−Σ_k p_k ln p_k) with p_k = σ_k / Σ σ, σ the singular values of the features, not centered. 1 if all are 0.
    """
    singular = torch.linalg.eigvalsh(features.double().T @ features.double()).clamp_min(0).sqrt()  # (C,)
    return float(torch.special.entr(singular / singular.sum().clamp_min(1e-300)).sum().exp())


def relative_std(features: Float[Tensor, "N C"]) -> float:
    """Return the standard deviation over images of features of length 1, averaged over channels, times √C.

    0 if all images have the same features, near 1 if they point in all directions (Chen and He 2021, section 4.1).
    """
    deviation = F.normalize(features.double(), dim=1).std(dim=0)  # (C,)
    return float(deviation.mean()) * features.shape[1] ** 0.5
