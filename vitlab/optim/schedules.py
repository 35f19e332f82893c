"""Learning-rate schedules as settings for YAML."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, PositiveFloat


@dataclass
class Schedule(ABC):
    """The learning rate as a pure function of the optimizer steps taken, so that a resumed run needs no state.

    It rises linearly at first. Epochs are fractional, as in MAE's `lr_sched.py`. `warmup_lr`, and a subclass's own, are
    absolute rates of the group nearest to the head.

    Args:
        warmup_epochs: Length of the warm-up; may be a fraction. A study with a budget in images or FLOPs scales it.
        warmup_lr: Where the warm-up starts.
        scale_with_batch: Let the optimizer's `reference_batch` scale the absolute rates too: Swin, SimMIM.
        scale_with_layer: Let the optimizer's `layer_decay` scale the absolute rates too, so that the layers' rates keep
            their proportions (BEiT, MAE). False: they hold for every layer (timm's schedulers, SimMIM).
        stretch: Factor by which every cosine or line is longer than the run, which ends on the way: 1.25 in MSN. Also
            applies to the weight decay and to a teacher's momentum.
    """

    warmup_epochs: NonNegativeFloat = 0.0
    warmup_lr: NonNegativeFloat = 0.0
    scale_with_batch: bool = field(default=False, kw_only=True)
    scale_with_layer: bool = field(default=True, kw_only=True)
    stretch: PositiveFloat = field(default=1.0, kw_only=True)

    def lr(self, peak: float, step: int, steps: int, epochs: float) -> float:
        """Return the rate at optimizer step `step` of `steps` (`epochs` epochs) of a group whose own rate is `peak`."""
        warmup = min(self.warmup_epochs, epochs) / epochs * steps
        if step < warmup:
            return self.warmup_lr + (peak - self.warmup_lr) * step / warmup
        return self.after_warmup(peak, step, steps, epochs, warmup)

    @abstractmethod
    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        """Return what `lr` is from step `warmup` on."""

    def at(self, scale: float, layer_scale: float = 1.0) -> "Schedule":
        """Return the schedule of a group whose rate is scaled by `scale` for batch and `layer_scale` for depth."""
        factor = (scale if self.scale_with_batch else 1.0) * (layer_scale if self.scale_with_layer else 1.0)
        names = [name for name in ("warmup_lr", "min_lr") if hasattr(self, name)]
        return self if factor == 1 else replace(self, **{name: factor * getattr(self, name) for name in names})


def unreached(epochs: float, warmup_epochs: float = 0.0, milestones: list[float] | tuple[float, ...] = ()) -> str:
    """Return what of its schedule a run of so many epochs never reaches, or nothing."""
    run, first = f"The run has {epochs:g} epochs and", min(milestones, default=0)
    if epochs <= warmup_epochs:
        return f"{run} warmup_epochs is {warmup_epochs:g}: all of it is warm-up. Warm up for less or train longer."
    return f"{run} the first of milestones is {first:g}: the rate never falls." if epochs <= first else ""


@dataclass
class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down to `min_lr` at the last step.

    Args:
        min_lr: Where the cosine ends.
        warmup_prefix: Let the cosine span what the warm-up leaves (MAE; Swin's code of today). False: it spans the
            whole run, and has come down a little when the warm-up hands over to it (DeiT, the released Swins, SimMIM).
    """

    min_lr: NonNegativeFloat = 0.0
    warmup_prefix: bool = True

    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        start = warmup if self.warmup_prefix else 0.0
        return cosine(peak, self.min_lr, (step - start) / max(self.stretch * steps - start, 1e-9))


@dataclass
class WarmupSteps(Schedule):
    """Linear warm-up, then a constant rate, multiplied by `gamma` at each of `milestones`: SimMIM, 800 epochs.

    Args:
        milestones: Epochs, none before the warm-up's end; a run that does not reach the first is warned.
        gamma: Factor at each.
    """

    milestones: tuple[float, ...] = ()
    gamma: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        if any(epoch < self.warmup_epochs for epoch in self.milestones):
            raise ValueError(
                f"milestones {self.milestones} begin before the end of warmup_epochs, {self.warmup_epochs}."
            )

    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        return peak * self.gamma ** sum(step >= epoch / epochs * steps for epoch in self.milestones)


@dataclass
class WarmupStableDecay(Schedule):
    """Linear warm-up, a constant rate, and a cooldown to `min_lr` at the last step (MiniCPM, arXiv 2404.06395).

    Args:
        min_lr: Where the cooldown ends.
        cooldown: Its fraction of the run, from 0 to 1; 0.2 in Hägele et al. 2024 (arXiv 2405.18392).
        decay: Its shape. 1-sqrt falls fastest at first, and is the best of those that Hägele et al. compare; linear is
            a line.
    """

    min_lr: NonNegativeFloat = 0.0
    cooldown: ClosedUnitInterval = 0.2
    decay: Literal["1-sqrt", "linear"] = "1-sqrt"

    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        start = max(warmup, (1 - self.cooldown) * steps)
        if step <= start:
            return peak
        progress = min(1.0, (step - start) / (self.stretch * steps - start))
        fallen = math.sqrt(progress) if self.decay == "1-sqrt" else progress
        return self.min_lr + (peak - self.min_lr) * (1 - fallen)


def cosine(start: float, end: float, progress: float) -> float:
    """Go from `start` to `end` along half a cosine, at `progress` from 0 to 1, and stay there."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))
