"""What accuracies, neighbours and probes ask of labels: one class for each image."""

from torch import Tensor


def require_classes(labels: Tensor) -> None:
    """Refuse labels that are not classes (B,): several for an image, shares of classes, or numbers to predict.

    Raises:
        ValueError: such labels.
    """
    if labels.ndim != 1 or labels.is_floating_point():
        kind = f"{tuple(labels.shape[1:])} {str(labels.dtype).removeprefix('torch.')}" if labels.ndim > 1 else "numbers"
        raise ValueError(
            f"The label of an image is {kind} in these data; k-NN, probes and accuracies need one class for each image."
        )
