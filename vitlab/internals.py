"""Every use of an interface that another package keeps to itself, one function each.

These interfaces may change with any release. tests/test_internals.py checks each promise made here, and pyproject.toml
allows no version newer than the tests have passed with. Written for torch 2.15, Lightning 2.6, jsonargparse 4.53,
timm 1.0, Pillow 13.0 and submitit 1.5. Packages are imported inside the functions, because some take seconds.
"""

from __future__ import annotations

import argparse
import atexit
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.callbacks import EarlyStopping
    from lightning.pytorch.loggers import WandbLogger
    from lightning.pytorch.strategies import ModelParallelStrategy
    from torch import Tensor
    from torch.distributed.fsdp import FSDPModule
    from torch.utils.data import DataLoader
    from torch.utils.flop_counter import FlopCounterMode


# ---- Lightning


def training_position(trainer: Trainer) -> tuple[int, int]:
    """Return the (epoch, batches already trained on in it) from which the trainer is about to start or to continue.

    After a restart Lightning requests the loader before it updates its counters: `trainer.current_epoch` is still one
    too low for a checkpoint of the end of an epoch, and workers would deliver the order of the epoch before.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current  # declared as the parent class, which lacks `processed`
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    if epochs.ready == epochs.processed:  # between two epochs, or before the first
        return epochs.processed, 0
    if batches.is_last_batch and batches.current.processed > 0:  # all batches done, the epoch's end not yet recorded
        return epochs.processed + 1, 0
    return epochs.processed, batches.current.processed


def end_workers(loader: DataLoader) -> None:
    """End a loader's persistent workers, as Lightning does at the end of a loop."""
    from lightning.pytorch.utilities.combined_loader import _shutdown_workers_and_reset_iterator

    _shutdown_workers_and_reset_iterator(loader)


def decide_after_validation(stopping: EarlyStopping) -> None:
    """Let a callback stop the run after the validation, not after all others, which would not know the last epoch."""
    if stopping._check_on_train_epoch_end is None:
        stopping._check_on_train_epoch_end = False


def is_within_an_epoch(trainer: Trainer) -> bool:
    """Return whether the trainer has begun an epoch whose end it has not recorded."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return bool(epochs.processed < epochs.ready)


def continue_after_whole_epochs(trainer: Trainer) -> None:
    """Let a trainer that is limited in steps continue from the end of an epoch; Lightning repeats the epoch's end."""
    trainer.fit_loop._iteration_based_training = bool  # type: ignore[method-assign]  # bool() is False, and is pickled


def count_last_epoch(trainer: Trainer) -> None:
    """Let `trainer.current_epoch` count an epoch in which the training reached `max_steps` or was stopped.

    Lightning does so at `max_epochs` only; otherwise a run that is loaded again to be tested has one epoch less.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    epochs.completed = epochs.processed


def epoch_means(trainer: Trainer) -> dict[str, Any]:
    """Return the running means of the training epoch, `value` / `cumulated_batch_size`, by hook and name."""
    results: Any = trainer.fit_loop.epoch_loop._results
    return {
        name: metric
        for name, metric in results.items()
        if metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction and metric.update_called
    }


def trainer_of(module: LightningModule) -> Trainer | None:
    """Return the trainer that a module is attached to; `module.trainer` raises where there is none."""
    return module._trainer


def replaces_samplers(trainer: Trainer) -> bool:
    """Return whether a trainer of several processes would put its own sampler around the data module's."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def wandb_arguments(logger: WandbLogger) -> dict[str, Any]:
    """Return what Lightning's logger will give to `wandb.init`, to be changed."""
    arguments: dict[str, Any] = logger._wandb_init
    return arguments


def narrow_options_of_the_trainer() -> None:
    """Let `limit_train_batches: 1` mean one batch and `1.0` all of them; refuse counts of 0, which Lightning takes.

    Python caches one object for `int | float` and `float | int`: what was imported first would decide between them.
    """
    from inspect import unwrap
    from typing import Union

    from jsonargparse.typing import PositiveInt
    from lightning.pytorch import Trainer

    annotations = unwrap(Trainer.__init__).__annotations__
    for split in ("train", "val", "test", "predict"):
        annotations[f"limit_{split}_batches"] = Union[int, float, None]  # noqa: UP007
    annotations["accumulate_grad_batches"] = PositiveInt
    annotations["check_val_every_n_epoch"] = PositiveInt | None


def shard_over_all_processes(strategy: ModelParallelStrategy) -> None:
    """Let the strategy shard data over every process of every machine; by default it does so over machines only."""
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes


def make_fsdp_root(module: FSDPModule) -> None:
    """Settle that a sharded module is the outermost one; a part that is called before it would take itself for that."""
    module._get_fsdp_state()._lazy_init()


def clip_unscaled_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let torch unscale float16's gradients before the step of a fused optimizer, so that Lightning clips them."""
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


# ---- torch


def can_skip_its_step(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether `skip_step_if` works on the optimizer's next step: on PyTorch's fused kernels only.

    SGD cannot skip its first step: its kernel would take the momentum from uninitialized memory.
    """
    from torch.optim import SGD, Adagrad, Adam  # AdamW is an Adam

    if isinstance(optimizer, SGD) and optimizer.defaults["momentum"] and not optimizer.state:
        return False
    return isinstance(optimizer, Adam | SGD | Adagrad) and all(group.get("fused") for group in optimizer.param_groups)


def skip_step_if(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Let a fused optimizer's kernel leave weights and state unchanged where `found_inf` is 1, without a read-back."""
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]  # as `torch.amp.GradScaler` sets it


def foreach(operation: str, *arguments: Any) -> Any:
    """Return what torch's `norm`, `mul_`, `sub_`, `lerp`, `lerp_` makes of lists of tensors, in one kernel on a GPU."""
    import torch

    return getattr(torch, f"_foreach_{operation}")(*arguments)


def count_attention_on_cpu() -> None:
    """Let torch 2.11 count the FLOPs of attention on a CPU with the formula for a GPU, as later versions do."""
    import torch
    from torch.utils.flop_counter import flop_registry

    for direction in ("", "_backward"):
        name = "_scaled_dot_product_flash_attention{}" + direction
        formula = flop_registry[getattr(torch.ops.aten, name.format(""))]
        flop_registry.setdefault(getattr(torch.ops.aten, name.format("_for_cpu")), formula)


def flop_counter() -> FlopCounterMode:
    """Return torch's FLOP counter, without what gradient checkpointing computes a second time."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    class CountOnce(FlopCounterMode):
        def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
            # During a backward pass gradients are enabled only where a checkpoint is recomputed.
            recomputed = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
            return out if recomputed else super()._count_flops(func_packet, out, args, kwargs)

    return CountOnce(display=False)


def pickled_name(error: Exception) -> str | None:
    """Return the object that `torch.load(…, weights_only=True)` refused to unpickle, if that is what went wrong."""
    culprit = re.search(r"GLOBAL (\S+)", str(error))
    return culprit and culprit[1]


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a CPU or GPU had too little memory; the CPU's allocator and oneDNN have no exception for it."""
    import torch

    texts = "can't allocate memory|not enough memory|could not (create|execute) a primitive"
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or re.search(texts, str(error)) is not None


# ---- argparse, timm, Pillow, submitit, LitData


def options_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return all options of a parser, with their dashes, and what it does for each."""
    return parser._option_string_actions


def rand_augment(description: str, parameters: dict[str, Any]) -> tuple[Any, int | None]:
    """Return timm's RandAugment, and the most layers that it can have where it draws operations without replacement.

    Posterize keeps at least one bit; timm's keeps none at high magnitudes, which Pillow rejects.
    """
    from timm.data.auto_augment import rand_augment_transform

    transform = rand_augment_transform(description, parameters)
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    return transform, None if transform.choice_weights is None else len(transform.ops)


def _at_least_one_bit(level_fn: Callable[..., tuple[int]], level: float, settings: dict[str, Any]) -> tuple[int]:
    (bits,) = level_fn(level, settings)
    return (max(bits, 1),)


def digits_table() -> Path:
    """Return the file of `sklearn.datasets.load_digits`, whose import takes a second."""
    package = find_spec("sklearn")
    assert package is not None
    return Path(str(package.origin)).parent / "datasets" / "data" / "digits.csv.gz"


def silence_libtiff() -> None:
    """Keep libtiff from printing a line for every odd tag; Pillow raises an error for what it cannot decode."""
    import ctypes
    from contextlib import suppress

    from PIL import Image

    with suppress(OSError, AttributeError):  # a Pillow that was built differently decodes as well
        library = ctypes.CDLL(Image.core.__file__)  # through which Pillow's own libtiff is found
        for setter in (library.TIFFSetWarningHandler, library.TIFFSetErrorHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)


def preemption_signal() -> signal.Signals:
    """Return the signal by which SLURM announces to submitit's tasks that they are about to be preempted."""
    from submitit.core.job_environment import JobEnvironment

    return signal.Signals(JobEnvironment._usr_sig())


def end_with(call: Callable[[], int]) -> NoReturn:
    """End this process with what a call returns as the exit status, after what Python does at its end but free all."""
    status = 1
    try:
        status = call()
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def images_of_chunks(stream: Any) -> dict[str, int]:
    """Return how many records each chunk of a StreamingDataset whose length is known has, by the chunk's file name."""
    config = stream.cache._reader.config
    sizes = (interval.chunk_end - interval.chunk_start for interval in config.intervals)
    return dict(zip((chunk["filename"] for chunk in config._chunks), sizes, strict=True))
