"""Train what one GPU cannot hold: parameters, gradients and optimizer states sharded over all processes (FSDP2).

`trainer.strategy: fsdp2`. Every block of every network, of the student, of its averages, of a decoder, is gathered for
its forward and backward alone; what lies between the blocks is gathered for the step. Each parameter is split along
its first dimension by itself, so that parameter groups, clipping and averages see the parameters they always see.

Lightning's `fsdp` flattens the parameters of a block before it splits them, so that a process may hold a weight of the
student and not the same weight of its average; nor can it clip by norm. It is refused.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate

from vitlab.internals import make_fsdp_root, shard_over_all_processes
from vitlab.models import ImageModel

STEPS = ("training_step", "validation_step", "test_step", "predict_step")


class FSDP(ModelParallelStrategy):
    """Shard the model over all processes; a checkpoint is one whole file, as without."""

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        shard_over_all_processes(self)
        super().setup_environment()


StrategyRegistry.register("fsdp2", FSDP, description="Parameters, gradients and optimizer states sharded by block")


def apply_fsdp(objective: LightningModule, mesh: DeviceMesh) -> None:
    """Shard an objective by block; once, also where it is tested after it was trained."""
    if isinstance(objective, FSDPModule):
        return
    for module in reversed(list(objective.modules())):  # what is inside before what is around it
        for part in parts(module):
            if not isinstance(part, FSDPModule):
                fully_shard(part, mesh=mesh)
    fully_shard(objective, mesh=mesh, reshard_after_forward=True)
    for step in STEPS:
        if hasattr(objective, step):
            register_fsdp_forward_method(objective, step)


def parts(module: nn.Module) -> list[nn.Module]:
    """Return the parts of a module that are gathered one by one: the blocks of a network or of a decoder."""
    if isinstance(module, ImageModel):
        return list(module.blocks)
    blocks = getattr(module, "blocks", None)  # timm's, MAE's decoder's
    return list(blocks) if isinstance(blocks, nn.Sequential | nn.ModuleList) else []


def local_shards(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's shards of some tensors, without the empty ones."""
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return [part for part in parts if part.numel()]


def as_gradients(scalar: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Return a number that all processes know in the form of some gradients, so that an optimizer takes both."""
    first = gradients[0]
    if not isinstance(first, DTensor):
        return scalar
    mesh = first.device_mesh
    return DTensor.from_local(scalar, mesh, [Replicate()] * mesh.ndim, run_check=False)


@contextmanager
def gathered(objective: nn.Module) -> Iterator[None]:
    """Let a network of an objective be called outside of its steps."""
    if not isinstance(objective, FSDPModule):
        yield
        return
    make_fsdp_root(objective)
    objective.unshard()
    try:
        yield
    finally:
        objective.reshard()
