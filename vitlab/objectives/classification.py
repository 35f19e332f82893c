"""What objectives that learn from labels share: an average of the weights, and how good both are at naming classes."""

from abc import ABC
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from vitlab.models import ImageModel
from vitlab.objectives.ema import Ema, WeightAverage
from vitlab.objectives.objective import Batch, Monitor, Objective
from vitlab.objectives.sharding import is_shared_out
from vitlab.optim import Optimizer, Schedule


class Classification(Objective, ABC):
    """Evaluate top-1, top-5, likelihood and calibration, of the trained weights and of their average.

    Args:
        label_smoothing: ε in y ← (1 − ε) y + ε / K.
        ema: Also average the weights over the steps, and validate, test and checkpoint the average beside the raw ones.
    """

    monitor: ClassVar[Monitor] = Monitor("val/top1", "max")

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        label_smoothing: float,
        ema: Ema | None,
        init_from: str | None,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, init_from)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is {label_smoothing}; give a value from 0 to below 1, like 0.1.")
        self.label_smoothing = label_smoothing
        self.ema = ema
        self.average = WeightAverage(backbone) if ema else None
        self.metrics = nn.ModuleDict(
            {name: classification_metrics(backbone.num_classes, f"{name}/") for name in ("val", "test")}
            | {f"{name}_ema": classification_metrics(backbone.num_classes, f"{name}_ema/") for name in ("val", "test")}
        )

    @property
    def encoder(self) -> ImageModel:
        return self.backbone if self.average is None else self.average.module  # type: ignore[return-value]

    def load_backbone(self, path: Path) -> None:
        super().load_backbone(path)
        if self.average is not None:
            self.average.restart(self.backbone)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        classes: int = self.trainer.datamodule.num_classes  # type: ignore[attr-defined]
        if self.backbone.num_classes != classes:
            raise ValueError(
                f"The backbone has {self.backbone.num_classes} classes and the data {classes}; "
                "remove num_classes from the backbone's init_args, or make it the data's."
            )

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return −Σ_k y_k log softmax(logits)_k for classes (B,) or shares of them (B, K), smoothed."""
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def after_optimizer_step(self) -> None:
        if self.ema is not None and self.average is not None:
            self.average.update(self.backbone, self.ema.at(self.global_step))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Return the logits (B, K) that are evaluated, by what follows `val` or `test` in the names of their metrics.

        The trained weights' are "", those of their average "_ema".
        """
        raw = {"": self.backbone(images)}
        return raw if self.average is None else raw | {"_ema": self.average.module(images)}

    def on_validation_start(self) -> None:
        self._kept_biases = ExitStack()
        kept = set() if is_shared_out(self) else {self.backbone, self.encoder}  # one and the same without an average
        for model in kept:
            self._kept_biases.enter_context(model.biases_kept())

    def on_validation_end(self) -> None:
        self._kept_biases.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        (images,), labels = batch
        return _predictions(self.outputs(images), labels)

    def _evaluate(self, split: str, batch: Batch) -> dict[str, Tensor]:
        (images,), labels = batch
        outputs = self.outputs(images)
        for name, logits in outputs.items():
            self._measure(f"{split}{name}", logits, labels)
        return _predictions(outputs, labels)

    def _measure(self, name: str, logits: Tensor, labels: Tensor) -> None:
        metrics = self.metrics[name]
        assert isinstance(metrics, MetricCollection)
        metrics.update(logits.float(), labels)
        self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))


def _predictions(outputs: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Return what is kept for each image: its label and the logits, raw and averaged."""
    return {"label": labels} | {f"logits{name}": outputs[name] for name in ("", "_ema") if name in outputs}


def classification_metrics(num_classes: int, prefix: str) -> MetricCollection:
    """Return top-1, top-5 (fractions), mean negative log-likelihood and 15-bin calibration error.

    All keep sums over images, not means over batches: exact for any number of images, batches and processes.
    """
    return MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro"),
            "top5": MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes)),
            "loss": NegativeLogLikelihood(),
            "ece": MulticlassCalibrationError(num_classes, n_bins=15),
        },
        prefix=prefix,
        compute_groups=False,  # groups are found by comparing states after one batch, by chance wrong
    )


def accuracy(num_classes: int, prefix: str) -> MetricCollection:
    """Return top-1 alone."""
    return MetricCollection({"top1": MulticlassAccuracy(num_classes, average="micro")}, prefix=prefix)


class NegativeLogLikelihood(Metric):
    """Mean of −log p(label) over images, from logits (B, K) and labels (B,)."""

    full_state_update = False
    total: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        self.total += F.cross_entropy(logits, labels, reduction="sum")
        self.images += len(labels)

    def compute(self) -> Tensor:
        return (self.total / self.images).float()
