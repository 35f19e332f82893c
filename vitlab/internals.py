"""Every use of an interface that another package keeps to itself, one function each.

These interfaces may change with any release. tests/test_internals.py checks each promise made here, and pyproject.toml
allows no version newer than the tests have passed with. Written for torch 2.15, Lightning 2.6, jsonargparse 4.53,
timm 1.0, Pillow 13.0 and submitit 1.5. Packages are imported inside the functions, because some take seconds.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import signal

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

    Lightning requests the loader, whose workers then start, before it updates its counters after a restart:
    `trainer.current_epoch` is still one too low for a checkpoint written at the end of an epoch, and workers would
    deliver the first epoch after a restart in the order of the one before it.
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
    """Let a callback stop the run after the validation, unless its arguments say when.

    Its default is the end of the epoch, after all other callbacks, which then do not know that the epoch was the last.
    """
    if stopping._check_on_train_epoch_end is None:
        stopping._check_on_train_epoch_end = False


def is_within_an_epoch(trainer: Trainer) -> bool:
    """Return whether the trainer has begun an epoch whose end it has not recorded."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return bool(epochs.processed < epochs.ready)


def continue_after_whole_epochs(trainer: Trainer) -> None:
    """Let a trainer that is limited in steps continue from the end of an epoch as one that is limited in epochs.

    With `max_steps` Lightning takes the state of a finished epoch for one within that epoch, and repeats the epoch's
    end: it counts the epoch and logs one more row.
    """
    trainer.fit_loop._iteration_based_training = bool  # type: ignore[method-assign]  # bool() is False, and is pickled


def count_last_epoch(trainer: Trainer) -> None:
    """Let `trainer.current_epoch` count an epoch in which the training reached `max_steps` or was stopped.

    Lightning does so at `max_epochs` only; elsewhere a run that is loaded again to be tested has one epoch less than
    the run that is tested right after its training.
    """
    epochs: Any = trainer.fit_loop.epoch_progress.current
    epochs.completed = epochs.processed


def epoch_means(trainer: Trainer) -> dict[str, Any]:
    """Return the running means of the training epoch by hook and name, as `training_step.train/loss`.

    Lightning keeps a sum, `value`, and a count, `cumulated_batch_size`, for each metric logged with `on_epoch=True`.
    Both are tensors and may be replaced.
    """
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


def tell_one_batch_from_all() -> None:
    """Let `limit_train_batches: 1` mean one batch and `1.0` all of them on the command line.

    Python caches one object for `int | float` and `float | int`, so that the order in which jsonargparse tries the two
    types, and with it the meaning of 1, would depend on what else was imported.
    """
    from inspect import unwrap
    from typing import Union

    from lightning.pytorch import Trainer

    for split in ("train", "val", "test", "predict"):
        unwrap(Trainer.__init__).__annotations__[f"limit_{split}_batches"] = Union[int, float, None]  # noqa: UP007


def shard_over_all_processes(strategy: ModelParallelStrategy) -> None:
    """Let the strategy shard data over every process of every machine; by default it does so over machines only."""
    strategy._data_parallel_size = strategy.num_nodes * strategy.num_processes


def make_fsdp_root(module: FSDPModule) -> None:
    """Settle that a sharded module is the outermost one, as its first forward would.

    Otherwise a part of it that is called before its first step takes itself for the root, and the step fails.
    """
    module._get_fsdp_state()._lazy_init()


def clip_unscaled_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let Lightning and torch unscale float16's gradients before the optimizer's step, so that they can be clipped.

    A fused optimizer announces that its own step divides the gradients by the scale of the loss. What clips or checks
    them before would then see scaled gradients, and Lightning refuses to clip.
    """
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


# ---- argparse and jsonargparse


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return all options of a parser, with their dashes."""
    return list(parser._option_string_actions)


def actions_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return what a parser does for each of its arguments."""
    return parser._actions


class Complaint(NamedTuple):
    """One line of a message of jsonargparse.

    Attributes:
        kind: what is wrong: `abstract`, `no class`, `no subclass`, `no attribute`, `denied`, `no option`; `other`. Of a
            value that nothing is wrong with but its type: `type` and `choice`, what would do.
        words: the names in the line; of `other`, the line itself.
    """

    kind: str
    words: tuple[str, ...]


# Lines of jsonargparse's messages that report how it searched, not what is wrong.
_SEARCH = (
    "Does not validate against",
    "Subtypes:",
    "Errors:",
    "Given value",
    "Expected a path but",
    "Problem with given class_path",
    "Expected a <class 'NoneType'>",
    "Parser key",
    "Not of type",
    "Not a valid subclass of",
    "Subclass types expect one of",
    "a class path (str)",
    "a dict with",
    "Requirement '",
)
_COMPLAINTS = {
    "abstract": re.compile(r"Expected an instantiatable class, but (\S+) is abstract"),
    "no class": re.compile(r"^Expected a dot import path string: (.+)$"),
    "no subclass": re.compile(r"^Import path (\S+) does not correspond to a subclass of (.+)$"),
    "no attribute": re.compile(r"module '([\w.]+)' has no attribute '(\w+)'"),
    "denied": re.compile(r"Importing '([\w.]+)' is not allowed"),
    "no option": re.compile(r"(?:[Uu]nrecognized arguments?:|does not accept option|Option|Key) '?(?:--)?([\w.-]+)"),
}
_TYPE = re.compile(
    r"Expected a (?:<class '(?P<type>[\w.]+)'>|typing\.Literal\[(?P<choices>.+)\]|(?P<tuple>tuple with \d+ elements))"
    r"(?:\. Got value: (?P<value>.*))?"
)


def parsing_failure(message: str) -> tuple[str | None, list[Complaint], str | None]:
    """Return the key, the complaints and the value that a message of jsonargparse is about.

    The message walks through every alternative of a nested type, and each level of nesting wraps the level below it.
    """
    message = message.removeprefix('Parser key "config": ')
    message = re.sub(r"^Group '([\w.]+)' does not accept option '", r"Option '\1.", message)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]

    def in_words(found: re.Match[str]) -> str:  # of PositiveInt and the like
        return f"must be {found[2].replace('v', '')}{f', not {found[1]}' if found[1] else ''}."

    outside = re.compile(r"Not of type \w+: (?:(\S+) )?does not conform to restriction (.+)")
    lines = [outside.sub(in_words, line) for line in lines]
    no_number = re.compile(r"Not of type \w+: (?:could not convert|invalid literal).*'(.*)'")
    lines = [no_number.sub(r"\1 is not a number.", line) for line in lines]
    if sum("pip install" in line for line in lines) == 1:  # the class was right, and its package is missing
        lines = [
            re.sub(r"^Requirement (.*) not met\. HINT: Try", r"The package \1 is missing. Try", line)
            for line in lines
            if "pip install" in line
        ]
    lines = [line for line in lines if line and not line.startswith(_SEARCH)]
    place = re.match(r'Parser key "([^"]+)"', message)
    value = re.search(r"^ *Given value: (.{1,80})$", message, re.MULTILINE)
    types = [match for line in lines if (match := _TYPE.fullmatch(line))]
    if types and len(types) == len(lines):
        return place and place[1], _types(types, message), types[-1]["value"] or (value and value[1])
    # Where a value of the right type has a fault, the other types that would have been right do not matter.
    lines = [line for line in lines if not _TYPE.fullmatch(line)]
    return place and place[1], [_complaint(line) for line in lines], value and value[1]


def _types(found: Sequence[re.Match[str]], message: str) -> list[Complaint]:
    """Return the types and the values that would have been right."""
    subtypes = re.search(r"^ *Subtypes: \[(.*)\]$", message, re.MULTILINE)
    choices = [word.strip(" '") for match in found for word in (match["choices"] or "").split(",") if word]
    types = [match["type"] or match["tuple"] for match in found if not match["choices"]]
    if subtypes and choices:  # numbers to choose from make the parser name `int`, too
        types = [name for name in types if re.search(rf"\b{name}\b", subtypes[1])]
    if subtypes and "tuple" in types and (pair := re.search(r"\btuple\[([\w, ]+)\]", subtypes[1])):
        types[types.index("tuple")] = f"tuple with {pair[1].count(',') + 1} elements"
    return [Complaint(kind, tuple(dict.fromkeys(words))) for kind, words in (("type", types), ("choice", choices))]


def _complaint(line: str) -> Complaint:
    for kind, pattern in _COMPLAINTS.items():
        if match := pattern.search(line):
            return Complaint(kind, match.groups())
    return Complaint("other", (re.sub(r"<class '([\w.]+)'>", r"\1", line),))


def missing_arguments(message: str) -> tuple[str, list[str]] | None:
    """Return the section and the names of the required arguments that are missing according to a parser's message."""
    missing = re.fullmatch(r"(.*?)(?:: )?the following arguments are required: (.+)", message, re.DOTALL)
    return missing and (missing[1], missing[2].split(", "))


def is_parsing_failure(message: str) -> bool:
    """Return whether a message comes from jsonargparse, although the error was raised by a constructor."""
    return "Does not validate against" in message


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
    """Let the optimizer's fused kernel leave weights and state unchanged where `found_inf` is 1, without a read-back.

    The attribute is the one that `torch.amp.GradScaler` sets.
    """
    optimizer.found_inf = found_inf  # type: ignore[attr-defined]


def foreach(operation: str, *arguments: Any) -> Any:
    """Return what torch's `norm`, `mul_`, `sub_` or `copy_` makes of lists of tensors, in one kernel on a GPU."""
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


# ---- timm, Pillow, submitit


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

    usr_sig: signal.Signals = JobEnvironment._usr_sig()
    return usr_sig


# ---- LitData


def images_of_chunks(stream: Any) -> dict[str, int]:
    """Return how many records each chunk of a StreamingDataset whose length is known has, by the chunk's file name."""
    config = stream.cache._reader.config
    sizes = (interval.chunk_end - interval.chunk_start for interval in config.intervals)
    return dict(zip((chunk["filename"] for chunk in config._chunks), sizes, strict=True))
