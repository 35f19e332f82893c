"""Steps that take turns: how two ways to do the same are measured where a machine changes its speed.

A shared machine changes its speed from second to second. Steps that are compared are therefore alternated, and what is
reported is the median of the ratios of neighbors, with the quartiles, not a ratio of two medians. With one thread on a
CPU, time is what this process was given of it, whatever else runs.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch

from vitlab.evaluation.flops import wait_for

Step = Callable[[], object]


class Quartiles(NamedTuple):
    """The middle of some values, and the range of the middle half."""

    q1: float
    middle: float
    q3: float


def alternate(steps: Mapping[str, Step], repetitions: int, device: torch.device) -> dict[str, list[float]]:
    """Time the steps in turn, each first every other time, after two of each to warm up. Returns seconds."""
    times: dict[str, list[float]] = {whose: [] for whose in steps}
    clock = clock_for(device)
    for repetition in range(-2, repetitions):
        for whose in sorted(steps, reverse=repetition % 2 == 0):
            wait_for(device)
            begin = clock()
            steps[whose]()
            wait_for(device)
            if repetition >= 0:
                times[whose].append(clock() - begin)
    return times


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return the clock that others on the machine disturb least: threads that wait for each other use time too."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, and afterwards as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def quartiles(values: Iterable[float]) -> Quartiles:
    """Return the quartiles of two values or more."""
    return Quartiles(*statistics.quantiles(values, n=4, method="inclusive"))


def ratios(over: Iterable[float], under: Iterable[float]) -> Quartiles:
    """Return the quartiles of the ratios of neighbors."""
    return quartiles(a / b for a, b in zip(over, under, strict=True))
