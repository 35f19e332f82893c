"""What glibc's allocator does with memory that is freed; with another C library nothing here does anything.

mallopt(3), malloc_trim(3): the system clears and maps each page that it gives, which for the activations of a step
takes as long as some of its arithmetic.
"""

import ctypes
from contextlib import suppress

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>


def hold_freed_memory() -> None:
    """Hold what is freed for the next training step, which asks for the same again.

    By default large blocks go back at once, as all activations of a step are, and come back anew in the next one. What
    a process holds is then its peak, which it needs again a step later. The values are the largest that are taken.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 32 * 2**20)
    _call("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)
    _call("mallopt", M_TOP_PAD, 256 * 2**20)


def map_tensors() -> None:
    """Map each tensor by itself and unmap it when it is freed, so that a process grows by its tensors alone.

    By default what is freed is kept for later, in pieces, and a process may be twice as large as its tensors.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 2**16)


def give_back_freed_memory() -> None:
    """Give what is held and free back to the system."""
    _call("malloc_trim", 0)


def _call(function: str, *arguments: int) -> None:
    with suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*arguments)
