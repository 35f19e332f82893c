"""Predicted classes of a model, without a trainer."""

from collections.abc import Iterable

import torch
from torch import Tensor

from vitlab.models import ImageModel


@torch.inference_mode()
def classify(model: ImageModel, batches: Iterable[tuple[list[Tensor], Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the predicted class of each image and its label, both (N,) in the order of the batches.

    Args:
        model: in eval mode.
        batches: (views, labels) on the model's device, one view each.

    Raises:
        ValueError: the labels are not classes.
    """
    pairs = []
    with model.biases_kept():
        for (images,), labels in batches:
            require_classes(labels)
            pairs.append((model(images).argmax(dim=1).cpu(), labels.cpu()))
    predicted, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return predicted, labels


def require_classes(labels: Tensor) -> None:
    """Raise ValueError for labels that are not classes (B,), such as class probabilities or regression targets."""
    if labels.ndim != 1 or labels.is_floating_point():
        shape = ", ".join(["B", *map(str, labels.shape[1:])])
        raise ValueError(
            f"The labels of these data, ({shape}) {str(labels.dtype).removeprefix('torch.')}, are not classes; k-NN, "
            "probes and accuracies need one class per image."
        )
