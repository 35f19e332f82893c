"""Peak memory of a process, trials that may run out of it, and the search for the largest batch that fits.

Each trial runs in a separate process: the peak is that of the trial alone, and running out of memory ends only it.
"""

import contextlib
import gc
import logging
import multiprocessing
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from vitlab.internals import is_out_of_memory

P = ParamSpec("P")
T = TypeVar("T")

GIB = 2**30
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


@dataclass(frozen=True)
class TrainingCost:
    """Memory and time of training at one batch size.

    Attributes:
        peak_bytes: of all tensors: weights, gradients, moments, activations.
        process_bytes: on a CPU of the whole process, Python and its libraries included.
    """

    batch_size: int
    peak_bytes: int
    process_bytes: int
    seconds_per_image: float


class PeakMemory:
    """Peak memory since `reset_peak`, beyond what was in use at construction."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = self._used()

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            # proc(5): sets the peak resident size to the current one. Where this is forbidden the peak includes
            # Python's start, which only matters to models smaller than their libraries.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def growth(self) -> int:
        return max(0, self._peak() - self.base)

    def _used(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return process_status("VmRSS") if sys.platform == "linux" else _peak_resident()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return process_status("VmHWM") if sys.platform == "linux" else _peak_resident()


def process_status(field: str) -> int:
    """Return a size from /proc/self/status (Linux) in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")


def _peak_resident() -> int:
    import resource  # here: Windows has none, and every command imports this file

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def bytes_of_tensors() -> int:
    """Return the bytes of all live tensors: weights, moments, gradients, also those that no module owns."""
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    return sum(dict(filter(None, map(memory_of, tensors))).values())


def memory_of(tensor: Tensor) -> tuple[int, int] | None:
    """Return the address and the bytes of a tensor's memory, or None for meta tensors and torch.compile's fake ones."""
    try:
        storage = tensor.untyped_storage()
        return None if storage.device.type == "meta" else (storage.data_ptr(), storage.nbytes())
    except RuntimeError:  # PyTorch's for "no address" and, as NotImplementedError, for "no storage"
        return None


def in_own_process(trial: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what a module's function returns in a fresh process; None if that ran out of memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_alone, trial, torch.get_num_threads(), *args, **kwargs).result()
        except BrokenProcessPool:  # the system kills a process that asks for more than there is
            return None


def _alone(trial: Callable[P, T], threads: int, /, *args: P.args, **kwargs: P.kwargs) -> T | None:
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)  # training on noise
    warnings.simplefilter("ignore")
    return attempt(trial, *args, **kwargs)


def attempt(trial: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return what a function returns, or None if it ran out of memory."""
    try:
        return trial(*args, **kwargs)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return None
        raise


def cap_memory(limit: int, device: torch.device) -> None:
    """Make this process fail rather than take much more than `limit` bytes."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    elif sys.platform == "linux":
        import resource  # here: Windows has none

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (process_status("VmData") + limit, hard))


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a GPU.

    Raises:
        ValueError: it is a CPU.
    """
    if device.type != "cuda":
        raise ValueError("Other programs share a CPU's memory; give a limit, like --memory 8GiB.")
    return torch.cuda.mem_get_info(device)[0]


def parse_bytes(text: str) -> int:
    """Return the bytes of "8GiB", "500 MB" or "1e9".

    Raises:
        ValueError: none of these.
    """
    match = re.fullmatch(r"([\d.]+(?:e\d+)?)\s*([kMG]i?|)B?", text.strip())
    try:
        size = int(float(match[1]) * UNITS[match[2]]) if match else 0
    except (KeyError, ValueError):
        size = 0
    if size < 1:
        raise ValueError(f"--memory {text} is not an amount of memory; write it like 8GiB, 500MiB or 24GB.")
    return size


def candidates(least: int, most: int, global_batch: int) -> list[int]:
    """Return the batch sizes to try, ascending: 4, 5, 6 or 7 times a power of two, and divisors of the global batch."""
    sizes = {step * 2**power // 4 for power in range(most.bit_length() + 1) for step in (4, 5, 6, 7)}
    sizes |= {size for size in range(1, global_batch + 1) if global_batch % size == 0}
    return sorted(size for size in sizes if least <= size <= most)


def largest(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """Return the largest of ascending sizes that fits, by doubling, then bisection; None if the first does not."""
    low, high = -1, 0  # the last index that fits, and the next to try
    while high < len(sizes) and fits(sizes[high]):
        low, doubled = high, 2 * sizes[high]
        high = next((index for index, size in enumerate(sizes) if size >= doubled), len(sizes))
        if high == len(sizes) and low < high - 1:
            high -= 1  # none is twice as large: the last
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low] if low >= 0 else None


def same_global_batch(global_batch: int, least: int, most: int) -> tuple[int, int] | None:
    """Return the largest batch from `least` to `most` and how many to accumulate to reach the global batch exactly."""
    fitting = [size for size in range(least, min(most, global_batch) + 1) if global_batch % size == 0]
    return (fitting[-1], global_batch // fitting[-1]) if fitting else None
