"""Labels that are no single class. Several per image: for each of K labels a binary cross-entropy,

    L = −1/K Σ_k [ y_k log σ(f(x)_k) + (1 − y_k) log(1 − σ(f(x)_k)) ]

with y_k 1 where image x has label k and 0 where not. K quantities: their mean squared error, L = 1/K ‖f(x) − y‖².
"""

from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.task import Monitor, ProbabilityTask, Task


class MultiLabelTask(ProbabilityTask):
    """Measure the mean over labels of average precision (`map`) and of F1 at a probability of one half."""

    monitor: ClassVar[Monitor] = Monitor("val/map", "max")

    def metrics(self, num_outputs: int, prefix: str) -> MetricCollection:
        if num_outputs < 2:
            remedy = "Give another column of labels, or sort the images into folders of classes and use Supervised."
            raise ValueError(f"MultiLabel takes two labels or more, and the data have one. {remedy}")
        found = {"map": MultilabelAveragePrecision(num_outputs), "f1": MultilabelF1Score(num_outputs)}
        return MetricCollection(
            {name: self.extra(metric) for name, metric in found.items()}, prefix=prefix, compute_groups=False
        )

    def check(self, labels: np.ndarray) -> None:
        if len(other := labels[(labels != 0) & (labels != 1)]):
            values = ", ".join(f"{value:g}" for value in np.unique(other)[:5])
            raise ValueError(f"MultiLabel takes labels of 0 and 1, and the data have {values}; make each 0 or 1.")

    def activate(self, outputs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        return outputs.double().sigmoid()


class MultiLabel(LabeledObjective):
    """Train an image model on any number of labels per image, (B, K) of 0 and 1; `LabelTable` reads them."""

    task = MultiLabelTask()

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        return F.binary_cross_entropy_with_logits(self.backbone(images), labels)


class RegressionTask(Task):
    """Measure the mean absolute error (`mae`) and root mean squared error over all K, and the mean R² over K."""

    monitor: ClassVar[Monitor] = Monitor("val/mae", "min")

    def metrics(self, num_outputs: int, prefix: str) -> MetricCollection:
        return MetricCollection(
            {"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False), "r2": R2Score()},
            prefix=prefix,
            compute_groups=False,
        )

    def values(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        apart = outputs.astype(np.float64) - labels
        squares, N = (apart**2).mean(axis=1), len(apart)
        whole, without = np.sqrt(squares.mean()), np.sqrt((squares.sum() - squares) / max(N - 1, 1))
        moved = (N - 1) * (whole - without)  # the jackknife, as `vitlab.evaluation.predictions` has it
        return {"mae": np.abs(apart).mean(axis=1), "rmse": whole + moved - moved.mean()}

    def activate(self, outputs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        return outputs


class Regression(LabeledObjective):
    """Train an image model on numbers (B, K) of a scale near 1; `LabelTable` reads them."""

    task = RegressionTask()

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        return F.mse_loss(self.backbone(images), labels)
