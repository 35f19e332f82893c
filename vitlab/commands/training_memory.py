"""A few steps of an experiment's own training on noise, in a process of its own: its peak memory and its speed.

The objective, its optimizer, averages of weights, gradient clipping and the way from uint8 to views are the
experiment's; only the images are noise, so that no data set need be there. In a process of its own a peak is the
trial's, and running out of memory ends the trial alone.
"""

import gc
import logging
import multiprocessing
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from vitlab.data import ImageDataModule
from vitlab.data.datamodule import Batch, Split, View
from vitlab.evaluation.allocator import give_back_freed_memory
from vitlab.evaluation.cost import PeakMemory, process_status
from vitlab.evaluation.flops import wait_for
from vitlab.evaluation.interleaved_timing import clock_for

P = ParamSpec("P")
T = TypeVar("T")

# What the CPU's allocator says, and oneDNN; neither has an exception of its own.
_NO_MEMORY = re.compile("can't allocate memory|not enough memory|could not (create|execute) a primitive")


@dataclass(frozen=True)
class Trial:
    """What a training of batches of this size takes.

    Attributes:
        peak_bytes: of all tensors: weights, gradients, moments, activations.
        process_bytes: on a CPU the whole process's, Python and its libraries included.
    """

    batch_size: int
    peak_bytes: int
    process_bytes: int
    seconds_per_image: float


class Noise(LightningDataModule):
    """Batches of noise in the place of an experiment's images."""

    def __init__(self, data: ImageDataModule, batches: int) -> None:
        super().__init__()
        self.data, self.number = data, batches
        self.batch_size, self.num_classes, self.seed = data.batch_size, data.num_classes, data.seed
        self.mean, self.std, self.multi_crop = data.mean, data.std, data.multi_crop

    def batch(self) -> Batch:
        """Return what a loader would."""
        side = self.data.framing.size  # which the way to the device may still enlarge
        size = (self.batch_size, self.data.in_chans, side, side)
        indices = torch.arange(self.batch_size)
        images = torch.randint(256, size, dtype=torch.uint8)
        return Batch(
            images, indices % self.num_classes, indices, epoch=0, first=0, host_indices=np.arange(len(indices))
        )

    def train_dataloader(self) -> DataLoader:
        batches: Any = [self.batch()] * self.number  # a list is a data set
        return DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)

    def batches(self, split: Split, device: torch.device) -> Iterator[View]:
        """Return nothing to evaluate."""
        return iter(())

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        return self.data.on_after_batch_transfer(batch, dataloader_idx)


class Gauge(Callback):
    """Reads clock and memory while the trainer trains.

    A CPU's process grows in its first step by code and by what libraries prepare, once. So the peak is that of the
    second step, over what tensors take when the first is done.

    Args:
        then: Called when the peak is read.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self.then, self.seconds = then, list[float]()
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
            self.then()
        self.mark = self.clock()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._keep_peak()

    def _begin(self) -> None:
        self.memory = PeakMemory(self.device)
        self.memory.reset_peak()
        self.mark = self.clock()

    def _keep_peak(self) -> None:
        self.whole = max(self.whole, self.memory.base + self.memory.growth())

    def read(self, batch_size: int) -> Trial:
        """Return what was read.

        The first half of the steps is not timed. Of the others the fastest counts: trials do not take turns, so what
        disturbs one would not cancel in their ratio.
        """
        fastest = min(self.seconds[len(self.seconds) // 2 :])
        peak = self.whole if self.device.type == "cuda" else self.peak
        return Trial(batch_size, peak, self.whole, fastest / batch_size)


def bytes_of_tensors() -> int:
    """Return the bytes of all tensors that there are: models, also those that no module holds, moments, gradients."""
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    found += [tensor.grad for tensor in found if tensor.is_leaf and tensor.grad is not None]
    return sum(dict(filter(None, map(memory_of, found))).values())


def memory_of(tensor: Tensor) -> tuple[int, int] | None:
    """Return where a tensor's memory begins and how many bytes it has; None for a tensor that has none.

    Those are the tensors of the meta device, and those by which `torch.export` and `torch.compile` trace and of which
    they keep some: a fake says that it is on the CPU, and only its storage tells.
    """
    try:
        storage = tensor.untyped_storage()
        return None if storage.device.type == "meta" else (storage.data_ptr(), storage.nbytes())
    except RuntimeError:  # PyTorch's for "no address" and, as NotImplementedError, for "no storage"
        return None


def train_on_noise(
    objective: LightningModule,
    data: ImageDataModule,
    like: Trainer,
    accumulate: int,
    steps: int,
    then: Callable[[], None],
) -> Trial:
    """Train for so many optimizer steps, two or more, of `accumulate` batches each.

    Args:
        like: The experiment's trainer, whose precision, device, clipping and epochs are taken.
        then: Called when the peak is read, before the steps that are timed.
    """
    gauge = Gauge(then)
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
        callbacks=[gauge],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(objective, datamodule=Noise(data, steps * accumulate))
    return gauge.read(data.batch_size)


def in_own_process(trial: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what a function of a module returns in a fresh process; None if that ran out of memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_alone, trial, torch.get_num_threads(), *args, **kwargs).result()
        except BrokenProcessPool:  # the system ends a process that asks for more than there is
            return None


def _alone(trial: Callable[P, T], threads: int, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)  # nothing that is said of noise is of use
    warnings.simplefilter("ignore")
    return attempt(trial, *args, **kwargs)


def attempt(trial: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what a function returns, or None if it ran out of memory."""
    try:
        return trial(*args, **kwargs)
    except (MemoryError, torch.OutOfMemoryError):
        return None
    except RuntimeError as error:
        if _NO_MEMORY.search(str(error)):
            return None
        raise


def cap_memory(limit: int, device: torch.device) -> None:
    """Let this process fail rather than take much more than `limit` bytes from others on the machine."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    elif sys.platform == "linux":
        import resource  # here: Windows has none

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (process_status("VmData") + limit, hard))
