"""What accuracies, neighbors and probes ask of labels: one class for each image."""

from torch import Tensor


def require_classes(labels: Tensor) -> None:
    """Refuse labels that are not classes (B,): several for an image, shares of classes, or numbers to predict.

    Raises:
        ValueError: such labels.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        shape = ", ".join(["B", *map(str, labels.shape[1:])])
        raise ValueError(
            f"The labels of these data, ({shape}) {str(labels.dtype).removeprefix('torch.')}, are no classes; k-NN, "
            "probes and accuracies need one class for each image."
        )
