"""An experiment's own training on noise: a few steps for its peak memory, or as many as a measurement takes.

The objective, its optimizer, weight averages, gradient clipping, the check of each step and the way from uint8 to views
are the experiment's. Only the images are noise, so that no data set is needed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from vitlab.config import Config, merge
from vitlab.data import ImageDataModule
from vitlab.data.dataset import Batch, Split, View
from vitlab.data.photos import height_and_width
from vitlab.evaluation.allocator import give_back_freed_memory, hold_freed_memory, map_tensors
from vitlab.evaluation.flops import clock_for, wait_for
from vitlab.evaluation.memory import PeakMemory, TrainingCost, bytes_of_tensors, cap_memory
from vitlab.experiment.chain import TEACHER
from vitlab.experiment.experiment import Experiment
from vitlab.models import layers
from vitlab.objectives import Distillation, heads


class Noise(LightningDataModule):
    """Batches of noise in place of an experiment's images."""

    def __init__(self, data: ImageDataModule, batches: int) -> None:
        super().__init__()
        self.data, self.number = data, batches
        self.batch_size, self.num_classes, self.seed = data.batch_size, data.num_classes, data.seed
        self.mean, self.std, self.multi_crop = data.mean, data.std, data.multi_crop
        self.in_chans, self.training_shares = data.in_chans, data.training_shares

    def batch(self) -> Batch:
        """Return what a loader would."""
        sides = height_and_width(self.data.framing.size)  # may be enlarged on the device
        images = torch.randint(256, (self.batch_size, self.data.in_chans, *sides), dtype=torch.uint8)
        indices = torch.arange(self.batch_size)
        return Batch(images, indices % self.num_classes, indices, epoch=0, first=0, host_indices=indices.numpy().copy())

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Repeated(self.batch(), self.number), batch_size=None, collate_fn=lambda batch: batch)

    def batches(self, split: Split, device: torch.device) -> Iterator[View]:
        """Return nothing to evaluate."""
        return iter(())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


class Repeated(Dataset[Batch]):
    """The same batch many times."""

    def __init__(self, batch: Batch, number: int) -> None:
        self.batch, self.number = batch, number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Batch:
        return self.batch


class Gauge(Callback):
    """Reads clock and memory during training.

    The first step includes what libraries load once. So the peak is that of the second step, plus the size of all
    tensors after the first. Then freed memory is kept, as in a run, for the steps that are timed.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.base = self.peak = self.whole = 0
        self.mark = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.device, self.clock = pl_module.device, clock_for(pl_module.device)
        self._begin()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        wait_for(self.device)
        self.seconds.append(self.clock() - self.mark)
        if trainer.global_step == 1 and not self.base:
            self._keep_peak()
            give_back_freed_memory()
            self.base = bytes_of_tensors()
            self._begin()
        elif trainer.global_step == 2 and not self.peak:
            self.peak = self.base + self.memory.growth()
            hold_freed_memory()
        self.mark = self.clock()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_peak()

    def _begin(self) -> None:
        self.memory = PeakMemory(self.device)
        self.memory.reset_peak()
        self.mark = self.clock()

    def _keep_peak(self) -> None:
        self.whole = max(self.whole, self.memory.base + self.memory.growth())

    def read(self, batch_size: int) -> TrainingCost:
        """Return the peaks, and the time of the fastest step of the second half.

        Trials do not alternate, so what disturbs one does not cancel in a ratio.
        """
        fastest = min(self.seconds[len(self.seconds) // 2 :])
        peak = self.whole if self.device.type == "cuda" else self.peak
        return TrainingCost(batch_size, peak, self.whole, fastest / batch_size)


def train_on_noise(
    objective: LightningModule,
    data: ImageDataModule,
    like: Trainer,
    accumulate: int,
    steps: int,
    callbacks: Sequence[Callback] = (),
) -> TrainingCost:
    """Train for two or more optimizer steps of `accumulate` batches each.

    Args:
        like: The experiment's trainer, whose precision, device, clipping and epochs are used.
        callbacks: Take part before the gauge of memory.
    """
    gauge = Gauge()
    trainer = Trainer(
        accelerator="gpu" if like.strategy.root_device.type == "cuda" else "cpu",
        devices=1,
        precision=like.precision,
        gradient_clip_val=like.gradient_clip_val,
        gradient_clip_algorithm=like.gradient_clip_algorithm,
        accumulate_grad_batches=accumulate,
        max_epochs=like.max_epochs,
        max_steps=steps,
        limit_val_batches=0,
        callbacks=[*callbacks, gauge],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(objective, datamodule=Noise(data, steps * accumulate))
    return gauge.read(data.batch_size)


def on_noise(config: Config, changes: Config | None = None) -> Experiment:
    """Return an experiment whose objective trains on noise: it asks for no stored weights, no cache and no classes.

    Args:
        changes: To the configuration.
    """
    arguments: Config = {"init_from": None}  # the values of weights take no memory and no time
    if "whiten" in config["model"]["init_args"]:
        arguments["whiten"] = False
    if "teacher" in config["model"]["init_args"]:
        arguments["teacher"] = {"cache": None} | _untrained_teacher(config)
    experiment = Experiment(merge(merge(config, {"model": {"init_args": arguments}}), changes or {}))
    if isinstance(experiment.objective, Distillation):  # noise has no classes to recognize
        experiment.objective.teacher.examine = lambda batches: None  # type: ignore[method-assign]
    return experiment


def _untrained_teacher(config: Config) -> Config:
    """Return the settings by which a teacher needs no weights; that of a run keeps them, as they name its model."""
    if config["model"]["init_args"]["teacher"]["model"] is not None:
        return {"weights": None}
    before = Experiment(config).before()  # perhaps not trained yet
    if (taught_by := before.get(TEACHER)) is None:
        return {}
    return {"weights": None, "model": taught_by.config["model"]["init_args"]["backbone"]}


def trial(
    config: Config,
    batch_size: int,
    accumulate: int,
    steps: int,
    grad_checkpointing: bool | None = None,
    limit: int | None = None,
) -> TrainingCost:
    """Train an experiment on noise at another batch size. Needs its own process, for the peaks to be the trial's.

    Args:
        limit: Fail rather than take much more than these bytes, and keep freed memory as a run does. Without a limit
            the process grows by its tensors alone until their peak is read.
    """
    if limit is None:
        map_tensors()
    changes: Config = {"data": {"init_args": {"batch_size": batch_size}}}
    if grad_checkpointing is not None:
        checkpointed = {"backbone": {"init_args": {"grad_checkpointing": grad_checkpointing}}}
        changes["model"] = {"init_args": checkpointed}
    experiment = on_noise(config, changes)
    if limit is not None:
        cap_memory(limit, experiment.trainer.strategy.root_device)
        hold_freed_memory()  # from the first step on, as in a run
    if experiment.config["run"]["compile"]:
        experiment.objective.compile_parts()
    return train_on_noise(experiment.objective, experiment.data, experiment.trainer, accumulate, steps)


def least_batch(experiment: Experiment) -> int:
    """Return the smallest batch a step accepts: two images for mixup and for statistics over the batch."""
    normalized = any(
        isinstance(module, heads.BatchNorm | layers.BatchNorm | nn.BatchNorm1d | nn.BatchNorm2d | nn.SyncBatchNorm)
        for module in experiment.objective.modules()
    )
    return 2 if normalized or experiment.data.mixup is not None else 1
