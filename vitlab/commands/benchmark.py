"""`python -m vitlab benchmark …`: what an experiment costs on this machine, and the largest batch that fits."""

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from vitlab.atomic_files import write_text
from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import Config

if TYPE_CHECKING:
    from vitlab.evaluation.cost import Cost
    from vitlab.evaluation.memory import TrainingCost
    from vitlab.experiment.experiment import Experiment

log = logging.getLogger("vitlab")

STEPS = 10  # of a trial whose time counts
OUT_OF_MEMORY = "out of memory"


def run(arguments: Sequence[str]) -> int:
    """Measure the cost of an experiment's model, its peak memory, or the largest batch that fits."""
    if arguments and arguments[0] in {"memory", "batch"}:
        return (benchmark_memory if arguments[0] == "memory" else benchmark_batch)(arguments[1:])
    return benchmark_cost(arguments)


def benchmark_cost(arguments: Sequence[str]) -> int:
    """Print what an experiment costs on this machine."""
    parser = StudyParser(
        "python -m vitlab benchmark --config FILE.yaml",
        "Cost of an experiment's own training step and of inference on this machine: parameters, FLOPs, images/s, "
        "memory. Other keys as in fit. "
        "`benchmark memory` measures peak memory by batch size, `benchmark batch` finds the largest batch that fits.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write it to a file")
    # For `compare`, in whose studies that many processes measure at once: a turn begins when a line comes in.
    parser.add_argument("--in_turn", type=int, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(arguments)
    experiment = build_single_process(rest)

    from vitlab.evaluation.cost import doubts
    from vitlab.experiment.step_cost import TURNS, measure

    turns = turns_on_request() if options.in_turn else iter(tqdm(range(TURNS), desc="measuring cost", disable=None))
    logging.disable(logging.WARNING)  # training on noise
    try:
        with warnings.catch_warnings(action="ignore"):
            cost = measure(experiment.config, turns, options.in_turn or 1)
    finally:
        logging.disable(logging.NOTSET)
    print(describe(cost))
    for doubt in doubts({type(experiment.objective.backbone).__name__: cost}):
        print(doubt)
    if options.json:
        cost.write(options.json)
    return 0


def describe(cost: "Cost") -> str:
    """Return a cost in words, a line each."""
    from referee.formats import NONE, counted

    from vitlab.studies.format import engineering, speed

    def joules(value: float | None) -> str:
        return "not available: this machine has no meter" if value is None else f"{engineering(value)} an image"

    others = NONE if cost.others is None else f"{cost.others:.1f} of {cost.cores} cores"
    rows = {
        "parameters": engineering(cost.parameters),
        "FLOPs of a forward pass": f"{engineering(cost.flops)} an image at test",
        "FLOPs of a training step": f"{engineering(cost.train_flops)} an image",
        "training, images/s": speed(cost.train_images_per_second, cost.train_quartiles),
        "inference, images/s": speed(cost.inference_images_per_second, cost.inference_quartiles),
        "peak memory, training": engineering(cost.train_peak_bytes, "B"),
        "peak memory, inference": engineering(cost.inference_peak_bytes, "B"),
        "energy, J, training": joules(cost.train_joules_per_image),
        "energy, J, inference": joules(cost.inference_joules_per_image),
        "measured with": f"batches of {counted(cost.batch_size, 'image')}, {cost.precision} "
        f"{'compiled' if cost.compiled else 'eager'}, {counted(cost.repetitions, 'step')} or more",
        "on": f"{cost.device}, {counted(cost.threads, 'thread')}, torch {cost.torch}",
        "used by other programs": others,
    }
    if cost.train_forward_flops and cost.train_forward_flops != cost.flops:
        rows["FLOPs of a forward pass"] += f", {engineering(cost.train_forward_flops)} in training"
    if cost.mean_share != 1:
        rows["images grow"] = f"a step costs {cost.mean_share:.0%} of one of the largest images, mean over the run"
    return "\n".join(f"{name:<26} {text}" for name, text in rows.items()).replace("\u00a0", " ")


def turns_on_request() -> Iterator[None]:
    """Yield for each line that comes in; say when ready for it."""
    from vitlab.evaluation.cost import READY

    print(READY, flush=True)
    for _ in sys.stdin:
        yield
        print(READY, flush=True)


def benchmark_memory(arguments: Sequence[str]) -> int:
    """Print and write the peak memory of an experiment's training steps, with and without gradient checkpointing.

    Checkpointing (Chen et al. 2016, https://arxiv.org/abs/1604.06174) stores only the input of each block and
    recomputes the rest in the backward pass.
    """
    parser = StudyParser(
        "python -m vitlab benchmark memory --config FILE.yaml",
        "Peak memory of training steps by batch size, and what grad_checkpointing saves. Other keys as in fit.",
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 32, 64, 128], help="sizes [16 32 64 128]")
    parser.add_out("the tables")
    options, rest = parser.parse_known_args(arguments)
    experiment = build_single_process(rest)

    import torch

    from vitlab.evaluation.cost import device_name
    from vitlab.evaluation.memory import in_own_process
    from vitlab.experiment.noise_training import least_batch, trial
    from vitlab.models import Backbone
    from vitlab.models.layers import BatchNorm

    backbone = experiment.objective.backbone
    if not isinstance(backbone, Backbone):
        raise ValueError(f"{type(backbone).__name__} has no grad_checkpointing; use a ViT, DeiT or Swin.")
    if any(isinstance(module, BatchNorm) for module in backbone.modules()):
        raise ValueError("norm: batch has no grad_checkpointing to measure; use norm: layer.")
    if min(options.batches) < least_batch(experiment):
        raise ValueError(
            f"--batches {min(options.batches)}: a step of this experiment needs {least_batch(experiment)} images."
        )
    header = (
        f"{type(experiment.objective).__name__} with {type(backbone).__name__} of {backbone.img_size[0]} px, "
        f"{experiment.trainer.precision}. {device_name(experiment.trainer.strategy.root_device)}, threads: "
        f"{torch.get_num_threads()}, torch {torch.__version__}."
    )
    rows: list[tuple[int, bool, "TrainingCost | None"]] = []
    cases = [(size, on) for size in sorted(set(options.batches)) for on in (False, True)]
    for size, on in tqdm(cases, desc="measuring memory", disable=None):
        rows.append((size, on, in_own_process(trial, experiment.config, size, 1, STEPS, on)))
        write_memory_tables(rows, header, options.out)
    print((options.out / "memory.md").read_text(encoding="utf-8"), end="")
    return 0


def write_memory_tables(rows: Sequence[tuple[int, bool, "TrainingCost | None"]], header: str, folder: Path) -> None:
    """Write memory.csv, a row for each trial, and memory.md, a row for each batch size."""
    import pandas as pd

    from vitlab.evaluation.memory import GIB

    measured = ["peak_bytes", "process_bytes", "seconds_per_image"]  # missing if out of memory
    costs = [(size, on, *(getattr(cost, name, None) for name in measured)) for size, on, cost in rows]
    table = pd.DataFrame(costs, columns=["batch_size", "grad_checkpointing", *measured])
    table = table.astype({"peak_bytes": "Int64", "process_bytes": "Int64"})
    write_text(folder / "memory.csv", table.to_csv(index=False))
    lines = [header, "", "| batch | peak, GiB | checkpointed, GiB | ratio | time ratio |", "|---" * 5 + "|"]
    for (size, _, plain), (_, _, checkpointed) in zip(rows[::2], rows[1::2], strict=False):
        memory = time = ""
        if plain and checkpointed:
            memory = f"**{checkpointed.peak_bytes / plain.peak_bytes:.2f}**"
            time = f"{checkpointed.seconds_per_image / plain.seconds_per_image:.2f}"
        peaks = (f"{cost.peak_bytes / GIB:.2f}" if cost else OUT_OF_MEMORY for cost in (plain, checkpointed))
        lines.append(f"| {size} | {' | '.join(peaks)} | {memory} | {time} |")
    write_text(folder / "memory.md", "\n".join(lines) + "\n")


def benchmark_batch(arguments: Sequence[str]) -> int:
    """Print the largest batch whose training fits into memory, and how to keep the experiment's global batch."""
    parser = StudyParser(
        "python -m vitlab benchmark batch --config FILE.yaml",
        "The largest batch that trains within some memory; on a CPU that includes Python and its libraries. Other keys "
        "as in fit: --model.backbone.grad_checkpointing true makes room.",
    )
    parser.add_argument("--memory", help="like 8GiB; leave a tenth for data and evaluation [free memory of the GPU]")
    parser.add_argument("--most", type=int, help="largest batch to try [the experiment's global batch]")
    options, rest = parser.parse_known_args(arguments)
    experiment = build_single_process(rest)

    from vitlab.evaluation.memory import GIB, candidates, free_memory, largest, parse_bytes, same_global_batch
    from vitlab.experiment.noise_training import least_batch

    limit = None if options.memory is None else parse_bytes(options.memory)
    if limit is None:
        limit = free_memory(experiment.trainer.strategy.root_device)
    global_batch = experiment.data.batch_size * experiment.trainer.accumulate_grad_batches
    least = least_batch(experiment)
    most = global_batch if options.most is None else options.most
    if most < least:
        raise ValueError(f"--most {most}: a step of this experiment needs {least} images.")
    size = largest(candidates(least, most, global_batch), partial(fits, experiment.config, limit))
    if size is None:
        raise ValueError(
            f"Not even a batch of {least} fits into {limit / GIB:.2f} GiB. Give more --memory, a smaller model or "
            "smaller images, or --model.backbone.grad_checkpointing true."
        )
    more = ", the largest that was tried" if size == most else ""
    print(f"The largest batch within {limit / GIB:.2f} GiB: {size}{more}")
    split = same_global_batch(global_batch, least, size)
    if split is None:
        raise ValueError(f"The global batch of {global_batch} has no divisor from {least} to {size}; choose another.")
    print(
        f"The same {global_batch} images a step: "
        f"--data.batch_size {split[0]} --trainer.accumulate_grad_batches {split[1]}"
    )
    return 0


def fits(config: Config, limit: int, batch_size: int) -> bool:
    """Return whether training at this batch size stays below the limit, and log it."""
    from vitlab.evaluation.memory import GIB, in_own_process
    from vitlab.experiment.noise_training import trial

    # Two batches a step: while the second goes through, the gradients of the first are held.
    cost = in_own_process(trial, config, batch_size, accumulate=2, steps=2, limit=limit)
    below = cost is not None and cost.process_bytes <= limit
    size = f"{cost.process_bytes / GIB:.2f} GiB" if cost else OUT_OF_MEMORY
    log.info("%d images: %s, %s", batch_size, size, "fits" if below else "too much")
    return below


def build_single_process(arguments: Sequence[str]) -> "Experiment":
    """Build an experiment for one process on one device."""
    alone = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
    return experiment_of([*arguments, *alone])
