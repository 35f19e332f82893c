"""`python -m vitlab benchmark memory` and `benchmark batch`: what an experiment's training takes, and what fits."""

import logging
from collections.abc import Sequence
from functools import partial

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from vitlab.commands.options import StudyParser
from vitlab.commands.training_memory import Trial, cap_memory, in_own_process, train_on_noise
from vitlab.config import Config, merge
from vitlab.evaluation.allocator import hold_freed_memory, map_tensors
from vitlab.evaluation.cost import device_name
from vitlab.experiment.parser import VitlabCLI, build
from vitlab.models import Backbone
from vitlab.objectives import Distillation
from vitlab.objectives.heads import BatchNorm
from vitlab.studies.memory_table import (
    GIB,
    OUT_OF_MEMORY,
    Row,
    candidates,
    largest,
    markdown,
    parse_bytes,
    same_global_batch,
    write_table,
)
from vitlab.studies.peers import TRAINER_PRECISION, Precision

log = logging.getLogger("vitlab")

STEPS = 10  # of a trial whose time counts


def benchmark_memory(arguments: Sequence[str]) -> int:
    """Print and write the peak memory of an experiment's training steps, with checkpointed activations and without."""
    parser = StudyParser(
        "python -m vitlab benchmark memory --config FILE.yaml",
        "Peak memory of training steps by batch size, and what grad_checkpointing saves. Other keys as in fit.",
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128], help="sizes [16 32 64 128]")
    parser.add_argument("--precision", choices=TRAINER_PRECISION, help="[the experiment's]")
    parser.add_out("the tables")
    options, rest = parser.parse_known_args(arguments)
    cli = build_alone(rest, options.precision)
    if not isinstance(cli.model.backbone, Backbone):
        raise ValueError(f"{type(cli.model.backbone).__name__} has no grad_checkpointing; give a ViT, DeiT or Swin.")
    if min(options.batches) < least_batch(cli):
        raise ValueError(
            f"--batches {min(options.batches)}: a step of this experiment needs {least_batch(cli)} images."
        )
    header = (
        f"{type(cli.model).__name__} with {type(cli.model.backbone).__name__} of {cli.model.backbone.img_size[0]} px, "
        f"{cli.trainer.precision}. {device_name(cli.trainer.strategy.root_device)}, threads: "
        f"{torch.get_num_threads()}, torch {torch.__version__}."
    )
    rows = []
    for size in sorted(set(options.batches)):
        plain, checkpointed = (in_own_process(trial, cli.resolved, size, 1, STEPS, on) for on in (False, True))
        rows.append(Row(size, plain, checkpointed))
        write_table(rows, header, options.out)
    print(markdown(rows, header), end="")
    return 0


def benchmark_batch(arguments: Sequence[str]) -> int:
    """Print the largest batch whose training fits into memory, and how to keep the experiment's global batch."""
    parser = StudyParser(
        "python -m vitlab benchmark batch --config FILE.yaml",
        "The largest batch whose training stays below some memory; on a CPU Python and its libraries count. Other keys "
        "as in fit: --model.backbone.grad_checkpointing true makes room.",
    )
    parser.add_argument("--memory", help="like 8GiB; leave a tenth for data and evaluation [what is free on the GPU]")
    parser.add_argument("--most", type=int, help="images to try at most [the experiment's global batch]")
    parser.add_argument("--precision", choices=TRAINER_PRECISION, help="[the experiment's]")
    options, rest = parser.parse_known_args(arguments)
    limit = None if options.memory is None else parse_bytes(options.memory)
    cli = build_alone(rest, options.precision)
    if limit is None:
        limit = free_memory(cli.trainer.strategy.root_device)
    global_batch = cli.datamodule.batch_size * cli.trainer.accumulate_grad_batches
    least = least_batch(cli)
    most = global_batch if options.most is None else options.most
    if most < least:
        raise ValueError(f"--most {most}: a step of this experiment needs {least} images.")

    found = largest(candidates(least, most, global_batch), partial(fits, cli.resolved, limit))
    if found is None:
        raise ValueError(
            f"Not even a batch of {least} fits into {limit / GIB:.2f} GiB. Give more --memory, a smaller model or "
            "smaller images, or --model.backbone.grad_checkpointing true."
        )
    more = ", and none larger was tried" if found == most else ""
    print(f"The largest batch within {limit / GIB:.2f} GiB: {found}{more}")
    split = same_global_batch(global_batch, least, found)
    if split is None:
        raise ValueError(f"The global batch of {global_batch} has no divisor from {least} to {found}; choose another.")
    print(
        f"The same {global_batch} images a step: "
        f"--data.batch_size {split[0]} --trainer.accumulate_grad_batches {split[1]}"
    )
    return 0


def fits(config: Config, limit: int, batch_size: int) -> bool:
    """Say whether training with this size of batch stays below the limit, in the log too."""
    # Two batches a step: while the second goes through, the gradients of the first are held.
    found = in_own_process(trial, config, batch_size, accumulate=2, steps=2, limit=limit)
    below = found is not None and found.process_bytes <= limit
    log.info(
        "%d images: %s, %s",
        batch_size,
        f"{found.process_bytes / GIB:.2f} GiB" if found else OUT_OF_MEMORY,
        "fits" if below else "too much",
    )
    return below


def free_memory(device: torch.device) -> int:
    """Return the bytes that nobody uses of a GPU.

    Raises:
        ValueError: it is a CPU.
    """
    if device.type != "cuda":
        raise ValueError("A CPU's memory is shared with all else that runs; give a share of it, like --memory 8GiB.")
    return torch.cuda.mem_get_info(device)[0]


def build_alone(arguments: Sequence[str], precision: Precision | None) -> VitlabCLI:
    """Build an experiment for one process, in its own precision or in another."""
    alone = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    chosen = ["--trainer.precision", TRAINER_PRECISION[precision]] if precision else []
    return build("fit", [*arguments, *alone, *chosen], start=False)


def least_batch(cli: VitlabCLI) -> int:
    """Return the fewest images that a step can do with: two for mixup, and for statistics over the batch."""
    normalized = any(isinstance(module, BatchNorm | _BatchNorm) for module in cli.model.modules())
    return 2 if normalized or cli.datamodule.mixup is not None else 1


def trial(
    config: Config,
    batch_size: int,
    accumulate: int,
    steps: int,
    grad_checkpointing: bool | None = None,
    limit: int | None = None,
) -> Trial:
    """Train an experiment on noise with another batch size; in a process of its own, or peaks are not the trial's.

    Args:
        limit: Fail rather than take much more than so many bytes, and hold what is freed as a run does; without, the
            process grows by its tensors alone until their peak is read.
    """
    if limit is None:
        map_tensors()
    arguments: Config = {"init_from": None}  # the values of weights take no memory
    if grad_checkpointing is not None:
        arguments["backbone"] = {"init_args": {"grad_checkpointing": grad_checkpointing}}
    if "teacher" in config["model"]["init_args"]:
        arguments["teacher"] = {"weights": None, "cache": None}
    changes = {"model": {"init_args": arguments}, "data": {"init_args": {"batch_size": batch_size}}}
    cli = VitlabCLI("fit", merge(config, changes), start=False)
    if isinstance(cli.model, Distillation):
        cli.model.teacher.examine = trust  # type: ignore[method-assign]  # of noise no teacher knows anything
    if limit is not None:
        cap_memory(limit, cli.trainer.strategy.root_device)
        hold_freed_memory()  # from the first step on, as in a run
    if cli.resolved["run"]["compile"]:
        cli.model.compile_parts()
    return train_on_noise(cli.model, cli.datamodule, cli.trainer, accumulate, steps, then=hold_freed_memory)


def trust(batches: object) -> None:
    """Stand in for the examination of a teacher."""
