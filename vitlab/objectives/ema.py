"""Averages of weights over training, for evaluation (EMA) and as a moving teacher.

Lightning's `EMAWeightAveraging` averages integer buffers too, which corrupts Swin's `relative_position_index`; it also
averages frozen teachers and heads, and validates only the average.
"""

import copy
from dataclasses import dataclass

import torch
from jsonargparse.typing import ClosedUnitInterval
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


@dataclass
class Ema:
    """Settings of an exponential moving average, which is evaluated and saved along with the raw weights.

    Args:
        decay: Fraction of the average kept at each optimizer step.
        warmup: Use min(decay, (1 + t) / (10 + t)) after t steps, so that a short run forgets its initial weights.
    """

    decay: ClosedUnitInterval = 0.9999
    warmup: bool = True

    def at(self, step: int) -> float:
        """Return the decay after `step` optimizer steps."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay


class WeightAverage(nn.Module):
    """A copy of a model that follows it: average ← decay · average + (1 − decay) · model.

    Only parameters are averaged; buffers (running statistics, integer index tables) are copied. It has no gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(model).requires_grad_(False)

    def restart(self, model: nn.Module) -> None:
        """Set the average to these weights."""
        self.module.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, decay: float) -> None:
        """Move the average towards `model`."""
        averages: list[Tensor] = list(self.module.parameters())
        weights: list[Tensor] = list(model.parameters())
        get_ema_multi_avg_fn(decay)(averages, weights, 0)
        for average, buffer in zip(self.module.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
