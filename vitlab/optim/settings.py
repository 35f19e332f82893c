"""Optimizers as settings for YAML."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt

from vitlab.optim.schedules import cosine


@dataclass
class Optimizer(ABC):
    """What every optimizer asks for.

    Args:
        lr: Learning rate of the layers nearest to the head.
        weight_decay: Never on biases, norms and what the architecture excludes.
        weight_decay_end: Final weight decay, approached along half a cosine, as in DINO; None: constant.
        layer_decay: Factor from one layer to the one below it (1 at the head), as in BEiT and MAE; None for none.
        head_lr: Learning rate of the classifier alone, for fine-tuning; None for `lr`.
        reference_batch: The batch `lr` is meant for: `lr` is scaled by global batch / reference batch; None: unscaled.
    """

    separates_matrices: ClassVar[bool] = False  # whether the matrices of the blocks are groups of their own

    lr: PositiveFloat
    weight_decay: NonNegativeFloat = 0.0
    layer_decay: ClosedUnitInterval | None = None
    head_lr: PositiveFloat | None = None
    reference_batch: PositiveInt | None = None
    weight_decay_end: PositiveFloat | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.weight_decay_end is not None and self.weight_decay == 0:  # of a group that is never decayed
            raise ValueError("weight_decay is 0; with a weight_decay_end give more than 0.")

    def scale(self, global_batch: int) -> float:
        """Return the factor that `reference_batch` puts on every learning rate."""
        return global_batch / self.reference_batch if self.reference_batch else 1.0

    def lr_of(self, hidden_matrix: bool) -> float:
        """Return the rate, nearest to the head, of the blocks' matrices or all else."""
        return self.lr

    def weight_decay_at(self, progress: float) -> float:
        """Return the weight decay of decayed parameters at this point of the run, from 0 to 1."""
        end = self.weight_decay if self.weight_decay_end is None else self.weight_decay_end
        return cosine(self.weight_decay, end, progress)

    @abstractmethod
    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer of these parameter groups."""


@dataclass
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter, 2019), in PyTorch's fused kernel.

    Args:
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
    """

    weight_decay: NonNegativeFloat = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent with momentum; the weight decay is L2, not decoupled.

    Not in PyTorch's fused kernel, which fails where a parameter has its first gradient later than others.

    Args:
        momentum: Of the running gradient.
        nesterov: Look ahead along the momentum.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov)


@dataclass
class AnyOptimizer(Optimizer):
    """An optimizer of PyTorch, timm or your own package, with the same parameter groups and schedule.

    Args:
        optimizer: Its class, like `timm.optim.Lamb` or `timm.optim.Muon`; called with the groups, `lr` and `arguments`.
        arguments: Its other arguments, like `{betas: [0.9, 0.99]}`.
    """

    optimizer: type[torch.optim.Optimizer] = field(kw_only=True)
    arguments: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if twice := self.arguments.keys() & {"lr", "weight_decay"}:  # of each group, and scheduled
            raise ValueError(f"Optimizer setting arguments has {', '.join(twice)}; give it beside `arguments`.")

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        try:
            return self.optimizer(groups, lr=self.lr, **self.arguments)  # type: ignore[call-arg]
        except TypeError as error:
            raise ValueError(f"Optimizer setting arguments: {error}.") from None
