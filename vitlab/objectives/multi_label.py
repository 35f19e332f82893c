"""Several labels per image: for each of K labels a binary cross-entropy,

    L = −1/K Σ_k [ y_k log σ(f(x)_k) + (1 − y_k) log(1 − σ(f(x)_k)) ]

with y_k 1 where image x has label k and 0 where not.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score

from vitlab.objectives.labeled import LabeledObjective
from vitlab.objectives.task import Monitor, Task


class MultiLabelTask(Task):
    """Measure the mean over labels of average precision (`map`) and of F1 at a probability of one half."""

    monitor: ClassVar[Monitor] = Monitor("val/map", "max")

    def metrics(self, num_outputs: int, prefix: str) -> MetricCollection:
        return MetricCollection(
            {"map": _AveragePrecision(num_outputs), "f1": MultilabelF1Score(num_outputs)},
            prefix=prefix,
            compute_groups=False,
        )

    def activate(self, outputs: Tensor) -> Tensor:
        return outputs.double().sigmoid()


class _AveragePrecision(MultilabelAveragePrecision):
    """Labels arrive as floats."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds, target.long())


class MultiLabel(LabeledObjective):
    """Train an image model on any number of labels per image, (B, K) of 0 and 1; `LabelTable` reads them."""

    task = MultiLabelTask()

    def loss(self, views: list[Tensor], labels: Tensor) -> Tensor:
        (images,) = views
        return F.binary_cross_entropy_with_logits(self.backbone(images), labels)
