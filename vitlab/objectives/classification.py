"""Classification: each image has one class, and the outputs are the logits of a softmax over K classes.

A classifier learns by the cross-entropy of the label, also of uneven classes:

    L = −1/B Σ_i Σ_k w_k y_ik log softmax(f(x_i) + τ log π)_k,    y ← (1 − ε) y + ε / K

with B images, ε the label smoothing, and y one-hot or, after mixup and cutmix (made by the data), a mixture of two.
Of n training images, n_k have class k and π_k = n_k / n. Weights, else 1, give classes with w_k ∝ 1 / n_k the same
share of the loss. Logit adjustment (Menon et al. 2021, https://arxiv.org/abs/2007.07314, eq. 10), else τ = 0, is left
out of predictions; it also moves the boundary of a network that fits all images.
"""

from abc import ABC
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat
from torch import Tensor
from torchmetrics import MeanMetric, Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError, MulticlassF1Score

from vitlab.models import ImageModel
from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.objective import Labels, Scalar
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
            wrong = f"The labels are {labels.dtype} of shape {labels.shape}, not one class per image"
            raise ValueError(f"{wrong}. Sort images into a folder for each class, or use MultiLabel or Regression.")

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


class Classifier(LabeledObjective, ABC):
    """Learn the class of an image; a subclass defines `loss` by `label_loss`.

    Args:
        backbone: Its number of classes must be the data's.
        label_smoothing: ε above.
        class_weights: w, a number for each class, or `balanced`: scikit-learn's n / (K n_k). They are scaled to a mean
            of 1 over the training images; B divides the loss, and not, as in torch, the batch's sum of weights, so that
            processes and accumulated batches add up to a whole batch.
        logit_adjustment: τ above; 1 in the paper.
        more: What `LabeledObjective` takes; optimizer and schedule also by position.
    """

    task = ClassificationTask()
    loss_weight_per_class: Tensor | None
    adjustment: Tensor | None

    def __init__(
        self,
        backbone: ImageModel,
        *labeled: Any,
        label_smoothing: ClosedUnitInterval = 0.0,
        class_weights: Literal["balanced"] | list[PositiveFloat] | None = None,
        logit_adjustment: NonNegativeFloat = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(backbone, *labeled, **more)
        if class_weights is not None and logit_adjustment:
            raise ValueError("class_weights and logit_adjustment both correct for uneven classes; set one of them.")
        self.label_smoothing = label_smoothing
        self.class_weights, self.logit_adjustment = class_weights, logit_adjustment
        self.register_buffer("loss_weight_per_class", None, persistent=False)
        self.register_buffer("adjustment", None, persistent=False)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data, given = self.trainer.datamodule, self.class_weights  # type: ignore[attr-defined]
        if stage != "fit" or (given is None and not self.logit_adjustment):
            return
        if data.balance:
            option = "class_weights" if given else "logit_adjustment"
            raise ValueError(f"data.balance and {option} both correct for uneven classes; set one of them.")
        counts = torch.from_numpy(np.bincount(data.labels("train"), minlength=data.num_classes)).to(self.device)
        share = counts / counts.sum()
        if given is None:
            self.adjustment = self.logit_adjustment * share.log()
            return
        weights = 1 / share if given == "balanced" else torch.tensor(given, device=self.device)
        if len(weights) != len(share):
            raise ValueError(f"class_weights are {given}, but the data have {len(share)} classes; give one each.")
        self.loss_weight_per_class = weights / (share * weights).sum()

    def label_loss(self, logits: Float[Tensor, "... K"], labels: Labels) -> Scalar:
        """Return L for f(x) and y."""
        if self.adjustment is not None:
            logits = logits + self.adjustment
        if self.loss_weight_per_class is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        epsilon, B = self.label_smoothing, len(labels)
        return F.cross_entropy(logits, labels, self.loss_weight_per_class, reduction="sum", label_smoothing=epsilon) / B
