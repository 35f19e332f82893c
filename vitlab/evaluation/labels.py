"""Accuracies, k-NN and probes need one class per image."""

from torch import Tensor


def require_classes(labels: Tensor) -> None:
    """Refuse labels that are not classes (B,): several per image, class probabilities, or regression targets.

    Raises:
        ValueError: they are not classes.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        shape = ", ".join(["B", *map(str, labels.shape[1:])])
        raise ValueError(
            f"The labels of these data, ({shape}) {str(labels.dtype).removeprefix('torch.')}, are not classes; k-NN, "
            "probes and accuracies need one class per image."
        )
