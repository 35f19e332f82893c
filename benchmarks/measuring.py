"""How the scripts time steps, and write their results as Markdown tables under a line that names the machine.

Steps to compare alternate, and a comparison is the median, with quartiles, of the ratios of neighboring steps, not a
ratio of two medians. With one thread on a CPU the clock is the process's own, whatever else runs.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from vitlab.atomic_files import write_text
from vitlab.evaluation.cost import device_name, wait_for
from vitlab.experiment.experiment import Experiment

OUT = Path("runs/benchmark")
CPU = torch.device("cpu")
WARM_UP = 5  # steps of a short run
Step = Callable[[], object]


class Quartiles(NamedTuple):
    q1: float
    middle: float
    q3: float


def parser_of(name: str, description: str | None, out: str = "") -> argparse.ArgumentParser:
    """Return a script's parser; `out`: with `--out`, the folder of these files."""
    parser = argparse.ArgumentParser(f"python -m benchmarks.{name}", description=(description or "").partition("\n")[0])
    if out:
        parser.add_argument("--out", type=Path, default=OUT, help=f"folder of {out} [%(default)s]")
    return parser


def options_of(changes: Mapping[str, object]) -> list[str]:
    """Return keys and values as `vitlab fit` takes them."""
    return [word for key, value in changes.items() for word in (f"--{key}", str(value))]


def machine(device: torch.device, *packages: str) -> str:
    """Return the device, the number of threads and the versions of torch and other packages."""
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", *packages))
    return f"{device_name(device)}, threads: {torch.get_num_threads()}, {versions}."


def markdown(header: str, rows: Sequence[Mapping[str, object]]) -> str:
    """Return the header and the rows, whose keys are the columns."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([*row.values()] for row in rows)]
    return f"{header}\n\n" + "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def save(file: Path, *tables: str) -> None:
    write_text(file, "\n".join(tables))


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return the clock that other programs disturb least: with several threads, waiting also counts as process time."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def alternate(steps: Mapping[str, Step], repetitions: int, device: torch.device) -> dict[str, list[float]]:
    """Return the seconds of each step's repetitions. The steps alternate, also in order, after two warm-up rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = clock_for(device)
    for repetition in range(-2, repetitions):
        for name in sorted(steps, reverse=repetition % 2 == 0):
            wait_for(device)
            begin = clock()
            steps[name]()
            wait_for(device)
            if repetition >= 0:
                times[name].append(clock() - begin)
    return times


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def quartiles(values: Iterable[float]) -> Quartiles:
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(over: Iterable[float], under: Iterable[float]) -> Quartiles:
    """Return the quartiles of the ratios of neighboring values."""
    return quartiles(a / b for a, b in zip(over, under, strict=True))


def train_steps(arguments: Sequence[str], folder: str, steps: int, changes: dict[str, str]) -> Experiment:
    """Train for a number of steps into a folder; nothing is evaluated, uploaded or kept.

    Args:
        arguments: those of `vitlab fit`.
        changes: further keys and values.
    """
    changes = {
        "run.root": folder,
        "run.test": "false",
        "run.wandb.mode": "disabled",
        "trainer.max_steps": str(steps),
        "trainer.max_epochs": str(steps),  # at most as many as steps
        "trainer.limit_val_batches": "0",
        **changes,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out here, like the validation
        experiment = Experiment.from_arguments([*arguments, *options_of(changes)])
        experiment.fit()
        return experiment
