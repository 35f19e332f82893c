"""Linear probe: multinomial logistic regression on frozen features, by L-BFGS.

    min_{W, b}  mean_i CE(W x_i + b, y_i) + λ/2 |W|²,    x standardized on the training images

A convex problem solved to its optimum: no learning rate, augmentation or number of epochs could favor one encoder.
Only λ is chosen, on images held out of the training set. N images, C features, K classes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = tuple(10.0**exponent for exponent in range(0, -7, -1))


@dataclass(frozen=True)
class LinearProbe:
    """A fitted classifier; `strength` is the chosen λ."""

    weight: Tensor  # (K, C)
    bias: Tensor  # (K,)
    mean: Tensor  # (C,)
    std: Tensor  # (C,)
    strength: float

    def logits(self, features: Tensor) -> Tensor:
        """Classify features (N, C). Returns (N, K)."""
        return F.linear((features - self.mean) / self.std, self.weight, self.bias)


def fit_linear_probe(
    train: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    num_classes: int,
    strengths: tuple[float, ...] = STRENGTHS,
) -> LinearProbe:
    """Fit on `train` for each λ, the strongest first, each from the last solution; return the best on `held_out`."""
    features, labels = train
    std, mean = torch.std_mean(features, dim=0)
    std = std.clamp_min(1e-6)
    x = (features - mean) / std
    weight = torch.zeros(num_classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    probes = []
    for strength in sorted(strengths, reverse=True):
        minimize(weight, bias, x, labels, strength)
        probes.append(LinearProbe(weight.detach().clone(), bias.detach().clone(), mean, std, strength))
    features, labels = held_out  # of equally good probes `max` returns the first, the strongest
    return max(probes, key=lambda probe: int((probe.logits(features).argmax(dim=1) == labels).sum()))


def minimize(weight: Tensor, bias: Tensor, x: Tensor, labels: Tensor, strength: float) -> None:
    """Optimize weight (K, C) and bias (K,) in place, by L-BFGS from their current values."""
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.5 * strength * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
