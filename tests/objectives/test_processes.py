"""Objectives in two processes that share a batch: what they compute together is what one computes alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.objectives.small import BACKBONES, OBJECTIVES, RECIPE, crops
from vitlab.distributed import places
from vitlab.models.layers import BatchNorm
from vitlab.objectives import LeJEPA, Objective

TOGETHER: dict[str, Callable[[Any], Objective]] = {
    **{name: OBJECTIVES[name] for name in ("dino", "ibot", "esvit", "lejepa", "msn")},
    "visreg": lambda net: LeJEPA(net, *RECIPE, hidden_dim=24, proj_dim=6, regularizer="visreg"),
}


def two_steps(name: str, rank: int, size: int) -> dict[str, torch.Tensor]:
    """Return two losses, and weights and center after them, of a process's images of a batch."""
    torch.manual_seed(0)
    backbone = BACKBONES["swin" if name == "esvit" else "vit"]()
    objective, (views, labels) = TOGETHER[name](backbone).double(), crops(4)
    optimizer = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    losses, own = [], places(4 // size, rank, size)
    for _ in range(2):
        torch.manual_seed(1)  # the mask of a batch, and directions
        optimizer.zero_grad()
        loss = objective.loss([view[own].double() for view in views], labels[own])
        loss.backward()
        for parameter in (p for p in objective.parameters() if p.grad is not None and size > 1):
            dist.all_reduce(parameter.grad)
            parameter.grad /= size  # as DDP
        optimizer.step()
        losses.append(loss.detach())
    return {"losses": torch.stack(losses)} | objective.state_dict()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save([two_steps(name, rank, 2) for name in TOGETHER], Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_losses_the_gradients_and_the_center_of_one(tmp_path: Path) -> None:
    """Sinkhorn, the mean of all answers, batch norms, characteristic functions and the center are of all images, with
    their gradients.
    """
    mp.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    shares = zip(*(torch.load(tmp_path / f"{rank}.pt") for rank in range(2)), strict=True)
    for objective, (first, second) in zip(TOGETHER, shares, strict=True):
        alone = two_steps(objective, 0, 1)
        torch.testing.assert_close((first.pop("losses") + second.pop("losses")) / 2, alone.pop("losses"))
        for name, value in alone.items():
            assert torch.equal(first[name], second[name]), name
            # In float64, but for positions, which are resized in float32.
            torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("track", [True, False])
def test_a_batch_norm_of_one_process_is_pytorchs(track: bool) -> None:
    own, theirs = BatchNorm(8, track_running_stats=track), nn.BatchNorm1d(8, track_running_stats=track)
    for _ in ("training", "evaluation"):
        x = torch.randn(16, 8)
        torch.testing.assert_close(own(x), theirs(x))
        own.eval()
        theirs.eval()
    assert own.state_dict().keys() == theirs.state_dict().keys() - {"num_batches_tracked"}
