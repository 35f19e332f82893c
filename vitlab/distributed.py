"""Several processes that train together: which images of a global batch each has, and means over all of them.

A global batch is dealt back and forth: of three processes, the first gets images 0, 5, 6, 11 and so on, the second
1, 4, 7, 10. So image i and the i-th from the end, which mixup blends with it, go to one process wherever each gets an
even number of them, and what the processes compute adds up to what one computes of the whole batch.

What is drawn for each image while it trains (masks) is drawn in every process for the whole global batch, from
generators in the same state; each then takes what is drawn for its own images (`local_rows`). So the draws are those of
one process, and the state that a checkpoint holds is the state of all.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int, Shaped
from torch import Tensor


def num_processes() -> int:
    """Return how many processes train together."""
    return dist.get_world_size() if _several() else 1


def places(batch: int, rank: int, world_size: int, device: torch.device | str | None = None) -> Int[Tensor, "{batch}"]:
    """Return where the `batch` images of a process stand in the global batch of `batch · world_size`."""
    i = torch.arange(batch, device=device)
    return i * world_size + torch.where(i % 2 == 0, rank, world_size - 1 - rank)


def local_rows(drawn: Shaped[Tensor, "WB ..."]) -> Shaped[Tensor, "B ..."]:
    """Return the rows of this process's images, of what was drawn for each image of the global batch."""
    world_size = num_processes()
    if world_size == 1:
        return drawn
    return drawn[places(len(drawn) // world_size, dist.get_rank(), world_size, drawn.device)]


def mean_over_processes(x: Tensor) -> Tensor:
    """Return the mean over the processes of a tensor that each has, the same in all; gradients flow through it.

    A process alone takes its own value.
    """
    return _Mean.apply(x) if _several() else x


def all_rows(x: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "WB ..."]:
    """Return the rows of all processes, in the order of their ranks; gradients flow through it."""
    if not _several():
        return x
    rows = x.new_zeros(num_processes(), *x.shape)
    rows[dist.get_rank()] = x
    return num_processes() * mean_over_processes(rows).flatten(0, 1)


def from_all_processes(value: Any) -> list[Any]:
    """Return every process's value, in the order of their ranks."""
    if not _several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def own_of(values: Sequence[Any]) -> Any | None:
    """Return this process's value of those that `from_all_processes` gave; None where there were fewer processes."""
    rank = dist.get_rank() if _several() else 0
    return values[rank] if rank < len(values) else None


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


class _Mean(torch.autograd.Function):
    """The mean is linear and symmetric, so gradients are averaged just as the values are.

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
