"""Quantities instead of classes: the mean squared error of K numbers per image.

L = 1/K ‖f(x) − y‖²
"""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanAbsoluteError, MeanSquaredError, MetricCollection, R2Score

from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.objective import Labels, Scalar, Views
from vitlab.objectives.task import Monitor, Task


class RegressionTask(Task):
    """Measure the mean absolute error (`mae`) and root mean squared error over all K, and the mean R² over K."""

    monitor: ClassVar[Monitor] = Monitor("val/mae", "min")

    def metrics(self, num_outputs: int, prefix: str) -> MetricCollection:
        return MetricCollection(
            {"mae": MeanAbsoluteError(), "rmse": MeanSquaredError(squared=False), "r2": R2Score()},
            prefix=prefix,
            compute_groups=False,
        )

    def activate(self, outputs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        return outputs


class Regression(LabeledObjective):
    """Train an image model on numbers (B, K) of a scale near 1; `LabelTable` reads them."""

    task = RegressionTask()

    def loss(self, views: Views, labels: Labels) -> Scalar:
        (images,) = views
        return F.mse_loss(self.backbone(images), labels)
