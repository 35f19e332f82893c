"""Interleaved timing of alternatives on a machine whose speed fluctuates.

Steps to compare alternate, and a comparison is the median, with quartiles, of the ratios of neighboring steps, not a
ratio of two medians. With one thread on a CPU the clock is the process's own, whatever else runs.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from vitlab.evaluation.cost import wait_for

Step = Callable[[], object]


class Quartiles(NamedTuple):
    """The quartiles of some values."""

    q1: float
    middle: float
    q3: float


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
    """Use one torch thread within the block."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def quartiles(values: Iterable[float]) -> Quartiles:
    """Return the quartiles of two or more values."""
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(over: Iterable[float], under: Iterable[float]) -> Quartiles:
    """Return the quartiles of the ratios of neighboring values."""
    return quartiles(a / b for a, b in zip(over, under, strict=True))
