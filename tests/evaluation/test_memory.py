"""Peak memory: what counts as a tensor, what checkpointing saves, and that freed memory stays with the process."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

from vitlab import models
from vitlab.evaluation.cost import bytes_of_tensors
from vitlab.models import Backbone

MIB = 2**20


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
