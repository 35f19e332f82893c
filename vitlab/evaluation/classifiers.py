"""The two classifiers that judge frozen features: k nearest neighbors, which need no training, and a linear probe.

The linear probe is multinomial logistic regression, by L-BFGS:

    min_{W, b}  mean_i CE(W x_i + b, y_i) + λ/2 |W|²,    x standardized on the training images

A convex problem solved to its optimum: no learning rate, augmentation or number of epochs could favor one encoder.
Only λ is chosen, on images held out of the training set.

Letters: Q queries, N images (k-NN's bank), C features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitlab.evaluation.features import collected, pixels

MOST_NEIGHBORS = 50_000  # of raw pixels
MOST_SIMILARITIES = 2**28  # at a time: a gigabyte, also among ImageNet's images
STRENGTHS = tuple(10.0**exponent for exponent in range(0, -7, -1))


def classify_pixels(
    data: Any, bank: Sequence[str], split: str, device: torch.device | str = "cpu", most: int = MOST_NEIGHBORS
) -> tuple[Tensor, Tensor, int]:
    """Classify the images of a split by their raw pixels, at most 32 px a side, as k-NN classifies features.

    The labeled examples are those of the splits `bank`; of larger data, every n-th of them, at most `most`. Return
    classes (Q,) int64, labels (Q,), and the number of examples N.
    """
    every = -(-sum(len(data.labels(each)) for each in bank) // most)
    parts = [collected(data.batches(each, device, every), pixels) for each in bank]
    examples, known = (torch.cat(each) for each in zip(*parts, strict=True))
    queries, labels = collected(data.batches(split, device), pixels)
    return predict_weighted(queries, examples, known, data.num_classes), labels, len(known)


def predict_weighted(queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int = 20) -> Tensor:
    """Return the class with the most `weighted_votes` for each query, (Q,) int64."""
    return weighted_votes(queries, bank, labels, num_classes, k).argmax(dim=1)


def weighted_votes(
    queries: Tensor, bank: Tensor, labels: Tensor, num_classes: int, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """Classify features as DINO does: each of the k most similar examples votes with exp(cosine / temperature).

    The defaults are the released code's (`eval_knn.py`, where k = 20 is the best of 10, 20, 100, 200). Of queries
    (Q, C) and a bank (N, C) with labels (N,), return votes (Q, num_classes).
    """
    bank = F.normalize(bank, dim=1)
    k = min(k, len(bank))
    found = []
    rows = max(1, min(2048, MOST_SIMILARITIES // len(bank)))
    for part in F.normalize(queries, dim=1).split(rows):
        similarity, nearest_k = (part @ bank.T).topk(k)  # (q, k)
        votes = torch.zeros(len(part), num_classes, device=part.device)
        found.append(votes.scatter_add_(1, labels[nearest_k], (similarity / temperature).exp()))
    return torch.cat(found)


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
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

        def closure(optimizer: torch.optim.Optimizer = optimizer, strength: float = strength) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(x, weight, bias), labels) + 0.5 * strength * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        probes.append(LinearProbe(weight.detach().clone(), bias.detach().clone(), mean, std, strength))
    features, labels = held_out  # of equally good probes `max` returns the first, the strongest
    return max(probes, key=lambda probe: int((probe.logits(features).argmax(dim=1) == labels).sum()))
