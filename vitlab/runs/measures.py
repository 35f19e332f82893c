"""Quantities other than accuracy that a study may rank by: measured on the test images after the last epoch.

For `trainer.callbacks` of a YAML file. The numbers are metrics of summary.json; `metric: {name: jaccard, mode: max}` in
a study's file compares variants by them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from scipy.stats import binomtest

from vitlab import log
from vitlab.data import ImageDataModule
from vitlab.data.dataset import Split
from vitlab.evaluation.dense import Labeled, segment
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode
from vitlab.objectives.sharding import gathered
from vitlab.runs.checkpoints import is_last_epoch
from vitlab.runs.record import RunRecord

Measured = Mapping[str, float | np.ndarray]
"""Metrics by name, `test/…`; an array is of the values by test image, (N,), whose mean is the metric."""


class Measure(Callback, ABC):
    """Measures the model that is evaluated, once."""

    LOGGED: ClassVar[tuple[str, ...]] = ()  # the names of its metrics

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if is_last_epoch(trainer):
            data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
            with gathered(pl_module), torch.no_grad():
                found = self.measure(pl_module.encoder, data, pl_module.device)
            pl_module.log_dict({name: float(np.mean(value)) for name, value in found.items()}, rank_zero_only=True)
            values = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
            for record in trainer.callbacks if values and trainer.is_global_zero else ():  # type: ignore[attr-defined]
                if isinstance(record, RunRecord):
                    try:
                        record.write_values(data.image_names("test"), values)
                    except OSError as error:  # a full disk: the run goes on
                        log.warning("The values by image of %s are not written (%s).", ", ".join(values), error)

    @abstractmethod
    def measure(self, model: ImageModel, data: ImageDataModule, device: torch.device) -> Measured:
        """Return metrics by name, `test/…`."""


class Trained(Measure):
    """Logs `test/trained`, 1 if the training worked and 0 if it failed: the mean over seeds is a share of runs.

    A training worked if the test accuracy is above the most frequent class's share of the test images, beyond chance
    (binomial test at 1 %, one-sided). With `run.not_finite: skip` a run whose steps are not finite ends, too.
    """

    LOGGED = ("test/trained",)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Reject objectives without classes before the training."""
        if not pl_module.one_class:
            raise ValueError(f"Trained: {type(pl_module).__name__} does not give each image one class.")

    def measure(self, model: ImageModel, data: ImageDataModule, device: torch.device) -> dict[str, float]:
        with in_eval_mode(model):
            batches = [(model(view).argmax(dim=1), labels) for (view,), labels in data.batches("test", device)]
        predicted, labels = (torch.cat(parts).cpu() for parts in zip(*batches, strict=True))
        majority = labels.bincount().max().item() / len(labels)
        right = int((predicted == labels).sum())
        return {"test/trained": float(binomtest(right, len(labels), majority, alternative="greater").pvalue < 0.01)}


class Segmentation(Measure):
    """Logs segmentation probes on frozen features, for data with masks, see `vitlab.evaluation.dense`.

    They are of the last stage, `test/miou_linear_best` of that whose linear probe is best on the validation images.
    """

    LOGGED = ("test/miou_linear", "test/miou_knn", "test/miou_linear_best")

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Reject data without masks and models without maps before the training."""
        data: ImageDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if data.masks("test") is None:
            raise ValueError(f"Segmentation: {type(data).__name__} has no masks; Shapes has.")
        if data.tests_on_validation:
            raise ValueError("Segmentation needs validation images besides the test images. Set data.test_fraction.")
        if not pl_module.encoder.feature_info:
            raise ValueError(f"Segmentation: {type(pl_module.encoder).__name__} gives no maps: it has no feature_info.")

    def measure(self, model: ImageModel, data: ImageDataModule, device: torch.device) -> Measured:
        def pixels(split: Split) -> Labeled:
            masks = data.masks(split)
            assert masks is not None
            return data.batches(split, device), masks

        with in_eval_mode(model):
            stages = segment(model, pixels, data.num_classes)
        best = max(stages, key=lambda stage: float(np.mean(stage.held_out)))
        return dict(zip(self.LOGGED, (stages[-1].linear, stages[-1].knn, best.linear), strict=True))
