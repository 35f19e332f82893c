"""Means over all processes that train together, through which gradients flow. A process alone takes its own value."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean of a tensor that every process has one of, the same in all of them."""
    return _Mean.apply(x) if dist.is_available() and dist.is_initialized() else x


class _Mean(torch.autograd.Function):
    """The mean is linear and symmetric, so that gradients go back as values came: as their mean.

    DDP takes the mean of all parameters' gradients, so what results is the gradient of the mean of all losses.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return mean_over_processes(grad)
