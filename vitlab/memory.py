"""Freed memory is held for the next training step, which asks for the same again."""

import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>


def hold_freed_memory() -> None:
    """Make glibc hold what is freed; with another C library do nothing.

    By default it gives large blocks back at once, as all activations of a step are, and the system clears and maps each
    of their pages anew in the next one. What a process holds is then its peak, which it needs again a step later. The
    values are the largest that mallopt(3) takes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 256 * 2**20)
