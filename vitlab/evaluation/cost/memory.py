"""Peak memory: on a GPU that of its tensors, on a CPU the growth of the process.

A measurement begins when glibc has given freed memory back to the system (malloc_trim(3)); with another C library the
process keeps it, and grows less than its tensors.
"""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>


class PeakMemory:
    """Peak memory since construction, beyond what was in use then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            _call("malloc_trim", 0)
            # proc(5): sets the peak resident size to the current one. Where this is forbidden only what exceeds an
            # earlier peak counts, which matters to models smaller than their libraries.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        self.base = self.peak()

    def peak(self) -> int:
        """Return the bytes at the peak."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return process_status("VmHWM") if sys.platform == "linux" else _peak_resident()

    def growth(self) -> int:
        """Return the bytes at the peak, beyond what was in use at construction."""
        return self.peak() - self.base


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


# ---- what glibc does with freed memory


def hold_freed_memory() -> None:
    """Keep freed memory for the next training step, which needs the same amount.

    By default large blocks, like all activations of a step, go back to the system at once, which clears and maps each
    page again: as long as some of the arithmetic. The values are the largest that glibc accepts.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 32 * 2**20)
    _call("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)
    _call("mallopt", M_TOP_PAD, 256 * 2**20)


def _call(function: str, *arguments: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*arguments)
