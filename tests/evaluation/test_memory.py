"""Peak memory: what counts as a tensor, what checkpointing saves, and that freed memory stays with the process."""

import gc
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from vitlab import models
from vitlab.evaluation.cost import bytes_of_tensors
from vitlab.models import Backbone

MIB = 2**20

BLOCKS = """
import ctypes, sys
from vitlab.commands.dispatch import run
from vitlab.evaluation.cost import hold_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

if "hold" in sys.argv:
    hold_freed_memory()
if "fit" in sys.argv:
    run("fit", sys.argv[2:])
blocks = [libc.malloc(2**24) for _ in range(8)]
for block in blocks:
    libc.memset(block, 1, 2**24)
full = resident()
for block in blocks:
    libc.free(block)
print((full - resident()) / 2**24)
"""


def held_for_backward(model: nn.Module, images: torch.Tensor) -> int:
    """Return the bytes that a forward pass keeps, weights not counted."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    held: dict[int, int] = {}

    def hold(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(hold, lambda x: x):
        model(images).sum().backward()
    return sum(held.values())


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch4_32", "swin_mini_patch2_window4_32", "swinv2_mini_patch2_window4_32", "SwinTransformer"]
)
def test_checkpointed_models_hold_far_less_for_the_backward_pass(name: str) -> None:
    sizes: dict[str, Any] = {"img_size": 32} | (
        {"patch_size": 2, "window_size": 4} if name == "SwinTransformer" else {}
    )
    make: Callable[..., Backbone] = vars(models)[name]
    images = torch.randn(1, 3, 32, 32)
    plain, checkpointed = (held_for_backward(make(**sizes, grad_checkpointing=on), images) for on in (False, True))
    assert checkpointed < plain / 3


@pytest.mark.release
def test_a_deep_model_peaks_lower_when_checkpointed(tiny: Callable[..., Path]) -> None:
    deep = {"patch_size": 1, "depth": 16, "embed_dim": 32, "num_heads": 2}
    file = tiny({"model": {"init_args": {"backbone": {"init_args": deep}}}, "data": {"init_args": {"batch_size": 64}}})

    def peak(checkpointing: str) -> int:
        command = [sys.executable, "-m", "vitlab", "benchmark", "--config", str(file)]
        command += ["--model.backbone.grad_checkpointing", checkpointing]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return int(re.findall(r"peak memory, bytes +([\d,]+)", printed)[0].replace(",", ""))

    assert peak("true") < peak("false") / 2


def test_tensors_are_counted_once_for_each_memory_and_those_without_memory_not_at_all() -> None:
    gc.collect()  # or tensors of an earlier test die in between
    before = bytes_of_tensors()
    with FakeTensorMode():
        fake = torch.empty(MIB)  # torch.export leaves such tensors behind, which say that they are on the CPU
    none = [fake, torch.empty(MIB, device="meta"), torch.empty(MIB).to_sparse()]
    held = torch.ones(256, requires_grad=True)
    held.sum().backward()  # its gradient is a second memory; a view is none
    views = [held.detach(), held[:4]]
    grown = bytes_of_tensors() - before
    assert len(none) + len(views) == 5
    assert grown == 2 * 256 * 4


def given_back(*arguments: str) -> float:
    """Return how many of eight blocks a process gives back to the system when it frees them."""
    command = [sys.executable, "-c", BLOCKS, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])


glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")


@pytest.mark.release
@glibc
def test_what_is_freed_is_kept_for_the_next_step() -> None:
    assert given_back() > 7  # which is what the setting is for
    assert given_back("hold") < 1


@pytest.mark.release
@glibc
def test_a_run_that_trains_keeps_what_is_freed(tiny: Callable[..., Path]) -> None:
    assert given_back("fit", str(tiny({"trainer": {"limit_train_batches": 2, "limit_val_batches": 1}}))) < 1
