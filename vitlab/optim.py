"""Optimizers and learning-rate schedules as settings for YAML, and the parameter groups that they act on.

The learning rate of a parameter group is `lr` times the layer-wise decay of its depth, or `head_lr` for the classifier;
with `reference_batch` all of it is multiplied by global batch / reference batch. The product stands in the group's own
`lr`, so that every scheduler obeys it (timm only notes an `lr_scale` beside it, which PyTorch's schedulers ignore).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn


@dataclass
class Optimizer(ABC):
    """What every optimizer asks for.

    Args:
        lr: Learning rate of the layers nearest to the head.
        weight_decay: Never on biases, norms and what the architecture excludes.
        weight_decay_end: What the weight decay comes to along half a cosine over the run, as in DINO; None: it stays.
        layer_decay: Factor from one layer to the one below it (1 at the head), as in BEiT and MAE; None for none.
        head_lr: Learning rate of the classifier alone, for fine-tuning; None for `lr`.
        reference_batch: The batch `lr` is meant for: `lr` is scaled by global batch / reference batch; None: unscaled.
    """

    lr: float
    weight_decay: float = 0.0
    layer_decay: float | None = None
    head_lr: float | None = None
    reference_batch: int | None = None
    weight_decay_end: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _require(self.lr > 0, "lr", self.lr, "a positive learning rate, like 1.0e-3")
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        if self.weight_decay_end is not None:
            # A group of weight decay 0 is one that is never decayed.
            _require(self.weight_decay > 0, "weight_decay", self.weight_decay, "more than 0 with a weight_decay_end")
            _require(self.weight_decay_end > 0, "weight_decay_end", self.weight_decay_end, "more than 0, or null")
        _require(self.head_lr is None or self.head_lr > 0, "head_lr", self.head_lr, "a positive rate, or null")
        _require(0 < (self.layer_decay or 1) <= 1, "layer_decay", self.layer_decay, "a factor above 0, at most 1")
        _require((self.reference_batch or 1) > 0, "reference_batch", self.reference_batch, "like 512, or null")

    def scale(self, global_batch: int) -> float:
        """Return the factor that `reference_batch` puts on every learning rate."""
        return global_batch / self.reference_batch if self.reference_batch else 1.0

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

    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, eps=self.eps, fused=True)


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent with momentum, in PyTorch's fused kernel; the weight decay is L2, not decoupled.

    Args:
        momentum: Of the running gradient.
        nesterov: Look ahead along the momentum.
    """

    momentum: float = 0.9
    nesterov: bool = False

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)


@dataclass
class AnyOptimizer(Optimizer):
    """An optimizer of PyTorch, timm or your own package, with the same parameter groups and schedule.

    Args:
        optimizer: Its class, like `timm.optim.Lamb` or `timm.optim.Muon`; called with the groups, `lr` and `arguments`.
        arguments: Its other arguments, like `{betas: [0.9, 0.99]}`.
    """

    optimizer: type[torch.optim.Optimizer] = field(kw_only=True)
    arguments: dict[str, Any] = field(default_factory=dict, kw_only=True)

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return self.optimizer(groups, lr=self.lr, **self.arguments)  # type: ignore[call-arg]


@dataclass
class Schedule(ABC):
    """The learning rate as a pure function of the optimizer steps taken, so that a resumed run needs no state.

    It rises linearly at first. Epochs are fractional, as in MAE's `lr_sched.py`. `warmup_lr`, and what a leaf adds, are
    absolute rates: layer-wise decay never lowers them (timm's, DeiT's and Swin's code; MAE's does).

    Args:
        warmup_epochs: Length of the warm-up; may be a fraction.
        warmup_lr: Where the warm-up starts.
        scale_with_batch: Let the optimizer's `reference_batch` scale the absolute rates too: Swin, SimMIM.
        stretch: Factor by which every cosine or line is longer than the run, which ends on the way: 1.25 in MSN. Also
            applies to the weight decay and to a teacher's momentum.
    """

    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    scale_with_batch: bool = field(default=False, kw_only=True)
    stretch: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        _require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "zero or more")
        _require(self.stretch >= 1, "stretch", self.stretch, "1 or more")

    def lr(self, peak: float, step: int, steps: int, epochs: float) -> float:
        """Return the rate at optimizer step `step` of `steps` (`epochs` epochs) of a group whose own rate is `peak`."""
        warmup = min(self.warmup_epochs, epochs) / epochs * steps
        if step < warmup:
            return self.warmup_lr + (peak - self.warmup_lr) * step / warmup
        return self.after_warmup(peak, step, steps, epochs, warmup)

    @abstractmethod
    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        """Return what `lr` is from step `warmup` on."""

    def at(self, scale: float) -> "Schedule":
        """Return the schedule for a batch that multiplies the optimizer's rates by `scale`."""
        return self.scaled(scale) if self.scale_with_batch else self

    @abstractmethod
    def scaled(self, scale: float) -> "Schedule":
        """Return the schedule with all absolute rates multiplied."""


@dataclass
class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down to `min_lr` at the last step.

    Args:
        min_lr: Where the cosine ends.
        warmup_prefix: Let the cosine span what the warm-up leaves (MAE; Swin's code of today). False: it spans the
            whole run, and has come down a little when the warm-up hands over to it (DeiT, the released Swins, SimMIM).
    """

    min_lr: float = 0.0
    warmup_prefix: bool = True

    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        start = warmup if self.warmup_prefix else 0.0
        return cosine(peak, self.min_lr, (step - start) / max(self.stretch * steps - start, 1e-9))

    def scaled(self, scale: float) -> "Schedule":
        return replace(self, warmup_lr=self.warmup_lr * scale, min_lr=self.min_lr * scale)


@dataclass
class WarmupSteps(Schedule):
    """Linear warm-up, then a constant rate that falls to `gamma` of itself at each of `milestones`: SimMIM, 800 epochs.

    Args:
        milestones: Epochs, none before the warm-up's end; a run must reach the first.
        gamma: Factor at each.
    """

    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _require(self.gamma > 0, "gamma", self.gamma, "a factor above 0, like 0.1")
        late = all(epoch >= self.warmup_epochs for epoch in self.milestones)
        _require(late, "milestones", self.milestones, f"epochs from warmup_epochs ({self.warmup_epochs:g}) on")

    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        return peak * self.gamma ** sum(step >= epoch / epochs * steps for epoch in self.milestones)

    def scaled(self, scale: float) -> "Schedule":
        return replace(self, warmup_lr=self.warmup_lr * scale)


def cosine(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` along half a cosine, at `progress` from 0 to 1, and stay there."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    optimizer: Optimizer,
    global_batch: int,
    layers: Sequence[Sequence[nn.Parameter]] = (),
    head: Sequence[nn.Parameter] = (),
    no_decay: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Sort trainable parameters into groups of equal learning rate and weight decay.

    Args:
        parameters: Names and parameters, as `named_parameters()` gives them.
        layers: The parameters by depth (`parameters_by_depth()`); parameters not listed count as the last, the head.
        head: The classifier's parameters.
        no_decay: Names without weight decay, beside everything of at most one dimension.

    Returns:
        Groups for a PyTorch optimizer: `params`, `names`, `lr` (scaled), `weight_decay`; the deepest layer last.
    """
    scale = optimizer.scale(global_batch)
    depth = {id(p): i for i, layer in enumerate(layers) for p in layer}
    in_head = {id(p) for p in head}
    top = len(layers) - 1
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in parameters:
        if not parameter.requires_grad:
            continue
        below_head = top - depth.get(id(parameter), top)
        lr = optimizer.lr * (optimizer.layer_decay or 1.0) ** below_head
        if id(parameter) in in_head and optimizer.head_lr is not None:
            lr = optimizer.head_lr
        decay = 0.0 if parameter.ndim <= 1 or name in no_decay else optimizer.weight_decay
        group = groups.setdefault((lr, decay), {"params": [], "names": [], "lr": lr * scale, "weight_decay": decay})
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def describe_groups(groups: Sequence[dict[str, Any]], most: int = 4) -> str:
    """Return a table of the groups, a line each; a long table (layer-wise decay has dozens) is folded in the middle."""
    rows = [
        f"  lr {group['lr']:<10.4g} weight decay {group['weight_decay']:<6.4g} {len(group['params']):>4} tensors "
        f"{sum(p.numel() for p in group['params']):>12,} parameters, e.g. {group['names'][0]}"
        for group in groups
    ]
    if len(rows) > most:
        rows = [*rows[:1], f"  … {len(rows) - most + 1} groups between …", *rows[len(rows) - most + 2 :]]
    return "\n".join(rows)


def _require(holds: bool, name: str, value: object, remedy: str) -> None:
    if not holds:
        raise ValueError(f"Optimizer setting {name} is {value}; give {remedy}.")
