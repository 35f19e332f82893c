"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum whose singular values are all made 1.

    M ← μ M + (1 - μ) G                        momentum of the gradient G of a matrix W (m, n)
    O = orthogonalize((1 - μ) G + μ M)         U Vᵀ of U Σ Vᵀ, nearly
    W ← (1 - η λ) W - 0.2 √max(m, n) η O

By this factor one rate and one weight decay suit both Muon and AdamW (Moonlight, https://arxiv.org/abs/2502.16982). The
step is that of `torch.optim.Muon` with `match_rms_adamw`, against which it is tested. Different here:

- q, k and v in one weight (`qkv.weight`) are three matrices. Orthogonalized as one, the largest would set the scale of
  all; to split them trains better (https://x.com/kellerjordan0/status/1844391659112644903, Moonlight in Megatron-LM).
- On a CPU the products are in float32. In bfloat16, as PyTorch's are (`ns_dtype`), they take a fourth of the time where
  the CPU multiplies it (AMX, AVX-512), and many times as long elsewhere.
- Matrices of one shape are orthogonalized together: a small network's number of them costs more than their size. A
  matrix that FSDP shares out is gathered for it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from vitlab.internals import foreach
from vitlab.optim.settings import Optimizer

A, B, C = 3.4445, -4.7750, 2.0315  # Jordan's: the steepest rise of small singular values


@dataclass
class Muon(Optimizer):
    """Muon for the matrices of the backbone's blocks; AdamW for embeddings, positions, norms, biases, heads, decoders.

    Args:
        muon_lr: Learning rate of the matrices; None for `lr`.
        momentum: Of the gradient.
        nesterov: Look ahead along the momentum.
        ns_steps: Newton-Schulz steps of an orthogonalization.
        ns_dtype: Of their products; None for bfloat16 on a GPU and float32 on a CPU.
        betas: AdamW's decay of the first and second moment.
        eps: AdamW's, added to the root of the second moment.
    """

    separates_matrices: ClassVar[bool] = True

    weight_decay: NonNegativeFloat = 0.05
    muon_lr: PositiveFloat | None = field(default=None, kw_only=True)
    momentum: ClosedUnitInterval = field(default=0.95, kw_only=True)
    nesterov: bool = field(default=True, kw_only=True)
    ns_steps: PositiveInt = field(default=5, kw_only=True)
    ns_dtype: Literal["float32", "bfloat16"] | None = field(default=None, kw_only=True)
    betas: tuple[float, float] = field(default=(0.9, 0.999), kw_only=True)
    eps: float = field(default=1e-8, kw_only=True)

    def lr_of(self, hidden_matrix: bool) -> float:
        return self.muon_lr if hidden_matrix and self.muon_lr is not None else self.lr

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        own: dict[str, Any] = {"momentum": float(self.momentum), "ns_steps": int(self.ns_steps)}
        own |= {"nesterov": self.nesterov, "ns_dtype": self.ns_dtype}  # plain values, which checkpoints have
        groups = [group | own if group["hidden_matrices"] else group for group in groups]
        return MuonWithAdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


class MuonWithAdamW(torch.optim.AdamW):
    """PyTorch's AdamW, except in groups with `hidden_matrices`: one optimizer for schedules and checkpoints.

    A fused qkv is recognized by the end of its name, `qkv.weight`, in the group's `names`.
    """

    found_inf: Tensor | None = None  # 1: the gradient is not finite, and weights and state stay (as in fused kernels)

    def __setstate__(self, state: dict[str, Any]) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's looks for its own step count in every state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        groups = self.param_groups
        for group in groups:
            if group["hidden_matrices"] and any(p.grad is not None for p in group["params"]):
                self._step_matrices(group)
        self.param_groups = [group for group in groups if not group["hidden_matrices"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        updates = self._updates(group)
        lr = group["lr"] * (1.0 if self.found_inf is None else 1.0 - local(self.found_inf))
        steps = [lr * lr_ratio(*x.shape[1:]) * x.flatten(0, 1) for x in updates.values()]
        weights = [local(parameter) for parameter in updates]
        foreach("mul_", weights, 1.0 - lr * group["weight_decay"])
        foreach("sub_", weights, [shard(*pair) for pair in zip(steps, updates, strict=True)])

    def _updates(self, group: dict[str, Any]) -> dict[Tensor, Float[Tensor, "parts m n"]]:
        """Update the momenta, and return the orthogonal update of each weight, which for qkv is three matrices."""
        named = {p: name for p, name in zip(group["params"], group["names"], strict=True) if p.grad is not None}
        matrices = [
            whole(momentum, parameter).unflatten(0, (3 if name.endswith("qkv.weight") else 1, -1))
            for (parameter, name), momentum in zip(named.items(), self._momenta([*named], group), strict=True)
        ]
        return dict(zip(named, orthogonalize(matrices, group["ns_steps"], group.get("ns_dtype")), strict=True))

    def _momenta(self, parameters: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Update the momenta, and return the process' own part of what is to be orthogonalized."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        momenta = [local(self.state[parameter]["momentum_buffer"]) for parameter in parameters]
        gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
        if self.found_inf is not None:  # leaves the momenta as they are
            gradients = [torch.where(local(self.found_inf) > 0, *x) for x in zip(momenta, gradients, strict=True)]
        foreach("lerp_", momenta, gradients, 1 - group["momentum"])
        return foreach("lerp", gradients, momenta, group["momentum"]) if group["nesterov"] else momenta


def orthogonalize(matrices: Sequence[Tensor], steps: int, dtype: str | None = None) -> list[Tensor]:
    """Return U Vᵀ of each matrix U Σ Vᵀ of (parts, m, n), with singular values near 1 (0.7 to 1.2), by Newton-Schulz.

    X ← a X + (b X Xᵀ + c (X Xᵀ)²) X takes each singular value σ to a σ + b σ³ + c σ⁵. By default in bfloat16 on a GPU.
    Lying or standing, matrices of the same two sides are multiplied together.
    """
    lying = [each if each.shape[1] <= each.shape[2] else each.mT for each in matrices]
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, each in enumerate(lying):
        alike[each.shape[1:]].append(index)
    found: dict[int, Tensor] = {}
    for indices in alike.values():
        x = torch.cat([lying[index] for index in indices])
        x = x.to(getattr(torch, dtype or ("bfloat16" if x.is_cuda else "float32")))
        x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
        for _ in range(steps):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
        for index, part in zip(indices, x.split([len(matrices[index]) for index in indices]), strict=True):
            found[index] = (part if lying[index] is matrices[index] else part.mT).to(matrices[index].dtype)
    return [found[index] for index in range(len(matrices))]


def lr_ratio(rows: int, columns: int) -> float:
    """Return the factor on the learning rate of a matrix of this shape."""
    return 0.2 * float(max(rows, columns)) ** 0.5


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(part: Tensor, parameter: Tensor) -> Tensor:
    """Return the whole of a tensor that is sharded like a parameter."""
    if not isinstance(parameter, DTensor):
        return part
    mesh, placements = parameter.device_mesh, parameter.placements
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=shape, stride=stride).full_tensor()


def shard(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return this process's shard of a tensor that all hold whole."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
