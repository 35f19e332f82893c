"""A few training steps on random images, by which an experiment's FLOPs are counted and its speed is measured.

The objective, its optimizer, weight averages, gradient clipping, the check of each step and the way from uint8 to views
are the experiment's. Only the images are noise, so that no data set is needed, but for the names of a folder's classes;
a run directory has recorded them.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from vitlab.config import Config, merge
from vitlab.data.datamodule import ImageDataModule
from vitlab.data.dataset import Batch, Split, View
from vitlab.data.photos import Size, height_and_width
from vitlab.evaluation.utilization import Utilization
from vitlab.experiment.chain import TEACHER
from vitlab.experiment.experiment import Experiment
from vitlab.models.stored import without_weights
from vitlab.objectives import Distillation
from vitlab.runs.finite_steps import FiniteSteps
from vitlab.runs.loggers import MetricsFile
from vitlab.runs.trainer import RunProgress

COUNTED = 16  # images of a batch, at most, of which FLOPs are counted


class Noise(LightningDataModule):
    """Gives batches of noise in place of a data set's, and nothing to evaluate.

    Args:
        sides: the size of the training images of each batch.
        one_class: whether labels are classes (B,), else numbers (B, K).
    """

    def __init__(self, data: ImageDataModule, sides: Sequence[Size], one_class: bool = True) -> None:
        super().__init__()
        self.data, self.sides, self.one_class = data, sides, one_class
        self.batch_size, self.num_classes, self.seed = data.batch_size, data.num_classes, data.seed
        self.mean, self.std, self.multi_crop = data.mean, data.std, data.multi_crop
        self.in_chans, self.training_shares = data.in_chans, data.training_shares
        self.class_names: list[str] = []  # noise has none, whatever a teacher knows

    def batch(self, side: Size | None = None) -> Batch:
        """Return what a loader would."""
        sides = height_and_width(self.data.framing.size)  # may be enlarged on the device
        images = torch.randint(256, (self.batch_size, self.data.in_chans, *sides), dtype=torch.uint8)
        indices = torch.arange(self.batch_size)
        labels = indices % self.num_classes if self.one_class else torch.rand(self.batch_size, self.num_classes).round()
        return Batch(images, labels, indices, epoch=0, first=0, host_indices=indices.numpy().copy(), side=side)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.sides, batch_size=None, collate_fn=self.batch)  # type: ignore[arg-type]

    def batches(self, split: Split, device: torch.device) -> Iterator[View]:
        return iter(())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


def on_noise(config: Config, images: bool = True) -> Experiment:
    """Return an experiment whose objective trains on noise: it asks for no stored weights, no cache and no classes."""
    arguments: Config = {"init_from": None}  # the values of weights take no memory and no time
    settings = config["model"]["init_args"]
    if "whiten" in settings:
        arguments["whiten"] = False
    if "teacher" in settings:
        arguments["teacher"] = {"cache": None, "weights": None}
        if settings["teacher"]["model"] is None:  # it is a run, perhaps not trained yet, whose weights name its model
            taught_by, arguments["teacher"] = Experiment(config, images=images).before().get(TEACHER), {"cache": None}
            if taught_by:
                arguments["teacher"] |= {"weights": None, "model": taught_by.config["model"]["init_args"]["backbone"]}
    config = config | {"model": without_weights(config["model"])}
    experiment = Experiment(merge(config, {"model": {"init_args": arguments}}), images=images)
    if isinstance(experiment.objective, Distillation):  # noise has no classes to recognize
        experiment.objective.teacher.examine = lambda batches: None  # type: ignore[method-assign]
    return experiment


def fit_on_noise(
    experiment: Experiment, sides: Sequence[Size], epochs: int = 1, log: Path | None = None, **options: Any
) -> Utilization:
    """Train on a batch of each size in each epoch, and return what this took; writes nothing but `log`."""
    objective, utilization = experiment.objective, Utilization()
    classes = objective.task is None or objective.one_class
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            trainer = Trainer(
                devices=1,
                max_epochs=epochs,
                limit_val_batches=0,
                callbacks=[FiniteSteps("skip"), utilization, RunProgress(utilization, shown=False)],
                logger=MetricsFile(log) if log else False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
                **options,
            )
            trainer.fit(objective, datamodule=Noise(experiment.data, sides, classes))
    finally:
        logging.disable(logging.NOTSET)
    return utilization


def flops_per_image(config: Config) -> float:
    """Count the FLOPs of a training step for each image, without the optimizer; where images grow, the mean."""
    few = {"batch_size": min(config["data"]["init_args"]["batch_size"], COUNTED)}
    experiment = on_noise(merge(config, {"data": {"init_args": few}, "trainer": {"accelerator": "cpu"}}))
    shares = experiment.data.training_shares
    counted = fit_on_noise(experiment, [*shares], accelerator="cpu")
    assert counted.flops is not None
    by_width = {side: counted.grown.get(height_and_width(side)[1], counted.flops) for side in shares}
    return sum(share * by_width[side] for side, share in shares.items()) / experiment.data.batch_size
