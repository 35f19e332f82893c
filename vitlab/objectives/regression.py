"""Quantities instead of classes: the mean squared error of K numbers per image.

L = 1/K ‖f(x) − y‖²
"""

from typing import ClassVar

import numpy as np
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
