"""Classification: each image has one class, and the outputs are the logits of a softmax over K classes."""

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from vitlab.objectives.task import Monitor, ProbabilityTask


class ClassificationTask(ProbabilityTask):
    """Measure top-1, top-5, balanced accuracy, macro F1, mean negative log-likelihood and 15-bin calibration error.

    Balanced accuracy and macro F1 are means over classes, which suit uneven ones. All but the likelihood are fractions.

    None averages over batches: all are exact for any number of images, batches and processes.
    """

    monitor: ClassVar[Monitor] = Monitor("val/top1", "max")
    one_class: ClassVar[bool] = True

    def check(self, labels: np.ndarray) -> None:
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"The labels are {labels.dtype} of shape {labels.shape}, and this objective takes one class per image. "
                "Sort the images into a folder for each class, or use MultiLabel or Regression."
            )

    def metrics(self, num_outputs: int, prefix: str) -> MetricCollection:
        return MetricCollection(
            {
                "top1": MulticlassAccuracy(num_outputs, average="micro"),
                "top5": TopAccuracy(5),
                "balanced_accuracy": MulticlassAccuracy(num_outputs, average="macro"),
                "macro_f1": MulticlassF1Score(num_outputs, average="macro"),
                "loss": NegativeLogLikelihood(),
                "ece": self.extra(MulticlassCalibrationError(num_outputs, n_bins=15)),
            },
            prefix=prefix,
            compute_groups=False,  # torchmetrics groups metrics whose states are equal after one batch, even by chance
        )

    def activate(self, outputs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        return outputs.double().softmax(dim=1)


def accuracy(num_classes: int, prefix: str) -> MetricCollection:
    """Return top-1 alone."""
    return MetricCollection({"top1": MulticlassAccuracy(num_classes, average="micro")}, prefix=prefix)


class TopAccuracy(MeanMetric):
    """The fraction of images whose label is among the k highest logits; of equal logits the first is higher."""

    higher_is_better = True  # type: ignore[assignment]

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def update(self, logits: Float[Tensor, "B K"], labels: Int[Tensor, "B"]) -> None:  # type: ignore[override]
        highest = logits.argsort(dim=1, descending=True, stable=True)[:, : self.k]  # (B, k)
        super().update((highest == labels[:, None]).any(dim=1).float())


class NegativeLogLikelihood(Metric):
    """Mean of −log p(label) over images."""

    full_state_update = False
    higher_is_better = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Float[Tensor, "B K"], labels: Int[Tensor, "B"]) -> None:
        self.total += F.cross_entropy(logits, labels, reduction="sum")
        self.images += len(labels)

    def compute(self) -> Float[Tensor, ""]:
        return (self.total / self.images).float()
