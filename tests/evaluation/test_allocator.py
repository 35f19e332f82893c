"""Freed memory stays with the process: measured by the kernel's own count of its pages, in a process of its own."""

import platform
import subprocess
import sys

import pytest

BLOCKS = """
import ctypes, sys
from vitlab.evaluation.allocator import hold_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if "hold" in sys.argv:
    hold_freed_memory()
blocks = [libc.malloc(2**24) for _ in range(8)]
for block in blocks:
    libc.memset(block, 1, 2**24)
full = resident()
for block in blocks:
    libc.free(block)
print((full - resident()) / 2**24)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_what_is_freed_is_kept_for_the_next_step() -> None:
    def given_back(*arguments: str) -> float:
        command = [sys.executable, "-c", BLOCKS, *arguments]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert given_back() > 7  # of eight blocks, which is what the setting is for
    assert given_back("hold") < 1
