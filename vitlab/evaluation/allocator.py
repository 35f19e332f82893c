"""Tell glibc's allocator what to do with freed memory; with another C library these functions do nothing.

mallopt(3), malloc_trim(3): the system clears and maps each page it hands out, which for the activations of a step takes
as long as some of its arithmetic.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>


def hold_freed_memory() -> None:
    """Keep freed memory for the next training step, which needs the same amount.

    By default large blocks, like all activations of a step, go back to the system at once. The process then stays at
    its peak, which it reaches again a step later. The values are the largest that glibc accepts.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 32 * 2**20)
    _call("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)
    _call("mallopt", M_TOP_PAD, 256 * 2**20)


def map_tensors() -> None:
    """Map each tensor separately and unmap it when freed, so that the process grows by its tensors alone.

    By default freed memory is kept in fragments, and a process may be twice as large as its tensors.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 2**16)


def give_back_freed_memory() -> None:
    """Return free memory to the system."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    with suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*arguments)
