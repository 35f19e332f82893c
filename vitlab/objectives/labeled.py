"""What objectives that learn from labels share: an average of the weights, and a task by which both are evaluated."""

from abc import ABC
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torchmetrics import Metric, MetricCollection

from vitlab.models import ImageModel
from vitlab.objectives.ema import Ema, WeightAverage
from vitlab.objectives.objective import Batch, Labels, Objective
from vitlab.objectives.task import Monitor, Task
from vitlab.optim import Optimizer, Schedule

Predictions = dict[str, Shaped[Tensor, "B ..."]]
"""Of each test image: `label`, and `logits`, `logits_ema` (B, K)."""


class LabeledObjective(Objective, ABC):
    """Validate and test by the metrics of `task`, with the trained weights and with their average.

    A subclass sets `task` and defines `loss`.

    Args:
        backbone: Its number of classes must be the data's.
        optimizer: Settings of the optimizer.
        schedule: The learning rate over the run, with its warm-up: a class of `vitlab.optim`.
        ema: Also average the weights over the steps, and validate, test and checkpoint the average.
        init_from: Weights to start from: a file, a folder, a run directory, or a name on the hub, `timm/…`.
        extra_metrics: Additional metrics, from torchmetrics or your own, by name; a study may rank by them.
    """

    task: Task
    one_view = True

    def __init__(
        self,
        backbone: ImageModel,
        optimizer: Optimizer,
        schedule: Schedule,
        ema: Ema | None = None,
        init_from: str | None = None,
        extra_metrics: Mapping[str, Metric] | None = None,
    ) -> None:
        super().__init__(backbone, optimizer, schedule, init_from)
        if self.task is None:
            raise ValueError(f"{type(self).__name__} has no task; set one in the class, as examples/labeled.py does.")
        self.ema = ema
        self.average = WeightAverage(backbone) if ema else None
        splits = ("val", "test", "val_ema", "test_ema")
        self.metrics = nn.ModuleDict({split: self.task.metrics(backbone.num_classes, f"{split}/") for split in splits})
        for metrics in map(self._metrics_of, splits):
            for name, metric in (extra_metrics or {}).items():
                if name in metrics.keys(keep_base=True):
                    raise ValueError(f"extra_metrics: {name} is a metric of the task. Give it another name.")
                metrics.add_metrics({name: self.task.extra(metric.clone())})

    @property
    def monitor(self) -> Monitor:
        return self.task.monitor

    @property
    def encoder(self) -> ImageModel:
        return self.backbone if self.average is None else self.average.module  # type: ignore[return-value]

    @property
    def epoch_metrics(self) -> list[str]:
        splits = ("val",) if self.average is None else ("val", "val_ema")
        return ["train/loss", *(str(name) for split in splits for name in self._metrics_of(split))]

    def load_backbone(self, path: Path) -> None:
        super().load_backbone(path)
        if self.average is not None:
            self.average.restart(self.backbone)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        classes: int = self.trainer.datamodule.num_classes  # type: ignore[attr-defined]
        if self.backbone.num_classes != classes:
            wrong = f"The backbone has {self.backbone.num_classes} classes and the data {classes}"
            raise ValueError(f"{wrong}; leave num_classes out. What was trained on others starts by init_from.")
        labels = getattr(self.trainer.datamodule, "labels", None)  # type: ignore[attr-defined]
        if stage == "fit" and labels is not None:
            for split in ("train", "val", "test"):
                self.task.check(labels(split))

    def after_optimizer_step(self) -> None:
        if self.ema is not None and self.average is not None:
            self.average.update(self.backbone, self.ema.at(self.global_step))

    def outputs(self, images: Float[Tensor, "B C H W"]) -> dict[str, Float[Tensor, "B K"]]:
        """Return the outputs to evaluate, by what follows `val` or `test` in the names of their metrics.

        Those of the trained weights are "", those of their average "_ema".
        """
        raw = {"": self.backbone(images)}
        return raw if self.average is None else raw | {"_ema": self.average.module(images)}

    def on_validation_start(self) -> None:
        self._kept_biases = ExitStack()
        if not isinstance(self, FSDPModule):
            for model in {self.backbone, self.encoder}:  # one and the same without an average
                self._kept_biases.enter_context(model.biases_kept())

    def on_validation_end(self) -> None:
        self._kept_biases.close()

    on_test_start = on_predict_start = on_validation_start
    on_test_end = on_predict_end = on_validation_end

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Predictions:
        return self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Predictions:
        """Return what predictions.parquet stores for each image: its label and the outputs, raw and averaged."""
        (images,), labels = batch
        return _predictions(self.outputs(images), labels)

    def _evaluate(self, split: str, batch: Batch) -> Predictions:
        (images,), labels = batch
        outputs = self.outputs(images)
        for name, values in outputs.items():
            metrics = self._metrics_of(f"{split}{name}")
            metrics.update(values.float(), labels)
            self.log_dict(metrics, on_step=False, on_epoch=True, batch_size=len(labels))
        return _predictions(outputs, labels)

    def _metrics_of(self, split: str) -> MetricCollection:
        metrics = self.metrics[split]
        assert isinstance(metrics, MetricCollection)
        return metrics


def _predictions(outputs: dict[str, Float[Tensor, "B K"]], labels: Labels) -> Predictions:
    return {"label": labels} | {f"logits{name}": outputs[name] for name in ("", "_ema") if name in outputs}
