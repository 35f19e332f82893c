"""What the outputs of a network mean: how they are measured, activated and ranked.

A task is an attribute of an objective that learns from labels. Everything that tests, predicts, exports or draws asks
the task, so an objective for other labels (several classes per image, quantities) only has to define its task.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError
from torchmetrics.wrappers import LambdaInputTransformer


class Monitor(NamedTuple):
    """The metric that ranks the epochs of a run: `best.ckpt` holds the weights with which it was best."""

    metric: str
    mode: Literal["min", "max"]


class Task(ABC):
    """How the outputs (B, K) for B images are judged.

    Attributes:
        monitor: The metric that ranks epochs and models, with the prefix `val/`.
        one_class: Each image has one class of K, int64 (B,). Only then are there per-class accuracies, confusion
            matrices and studies, and the predicted class is the largest output.
    """

    monitor: ClassVar[Monitor]
    one_class: ClassVar[bool] = False

    @abstractmethod
    def metrics(self, num_outputs: int, prefix: str) -> MetricCollection:
        """Return the metrics of outputs (B, K) and labels, whose names begin with `prefix`."""

    def check(self, labels: np.ndarray) -> None:  # noqa: B027  # a task may take any
        """Raise ValueError unless labels, (N,) or (N, K), are what the metrics and the loss take."""

    def extra(self, metric: Metric) -> Metric:
        """Return a metric of `extra_metrics` as one that takes outputs (B, K) and labels as they come."""
        return metric

    def values(self, outputs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Return metrics by image, (N,), whose means are those of `metrics`, as far as there are such values."""
        return {}

    @abstractmethod
    def activate(self, outputs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        """Return what a user reads: probabilities, or quantities in their own unit."""


class ProbabilityTask(Task, ABC):
    """A task whose `activate` gives probabilities; of those it gives, metrics of torchmetrics are measured.

    Given logits, torchmetrics takes a batch whose values all lie in [0, 1] for probabilities.
    """

    def extra(self, metric: Metric) -> Metric:
        rooms = [each.__module__ for each in type(metric).__mro__]
        if not any(room.startswith(("torchmetrics.classification", "torchmetrics.wrappers")) for room in rooms):
            return metric  # a user's takes logits and labels as they are
        calibrates = isinstance(metric, BinaryCalibrationError | MulticlassCalibrationError)
        activate = self._below_one if calibrates else self.activate
        return LambdaInputTransformer(metric, activate, Tensor.long)  # several labels arrive as floats

    def _below_one(self, outputs: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
        return self.activate(outputs).float().clamp(max=1 - 2**-24)  # torchmetrics gives 1 a bin of its own
