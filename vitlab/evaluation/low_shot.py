"""Low-shot probe: logistic regression on frozen features of a few labeled images.

    min_{W, b}  Σ_i CE(W x_i + b, y_i) + λ/2 |W|²,    x centered on the mean of all training images, and of length 1

That mean needs no labels. λ is 0.075, MSN's for a ViT-S with 1 % of the labels (Assran et al. 2022): it is fixed
because no labels are left to choose it on. The labeled images are drawn several times, the same for every encoder.

N images, C features, K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from vitlab.evaluation.features import Features

SHOTS = (1, 2, 5)
DRAWS = 5
STRENGTH = 0.075  # λ


@dataclass(frozen=True)
class LowShot:
    """Test accuracy with one number of labels: the mean over choices of the labeled images, and Student's interval."""

    value: float
    low: float
    high: float
    name: str
    images: int  # labeled, of the first choice
    strength: float  # λ
    draws: tuple[float, ...]

    @classmethod
    def of(cls, name: str, images: int, draws: Sequence[float]) -> "LowShot":
        """Summarize two or more draws."""
        mean, margin = float(np.mean(draws)), float(stats.sem(draws) * stats.t.ppf(0.975, len(draws) - 1))
        return cls(mean, max(0.0, mean - margin), min(1.0, mean + margin), name, images, STRENGTH, tuple(draws))

    def __str__(self) -> str:
        mean = f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{self.name:<18}  {mean}   {len(self.draws)} draws   λ = {self.strength:g}"


def measure_low_shot(train: Features, test: Features, shots: tuple[int, ...] = SHOTS) -> tuple[LowShot, ...]:
    """Fit on several draws of a few training images, and classify the test images. Features (N, C), labels (N,).

    Shots for which a class has too few images are skipped.
    """
    mean = train[0].mean(dim=0)
    x, queries = ((F.normalize(features - mean, dim=1), labels) for features, labels in (train, test))
    results = []
    for shot in shots:
        if shot <= int(train[1].bincount().min()):
            name = f"{shot} label{'s' * (shot > 1)} per class"
            choices = [draw_images(train[1], shot, draw) for draw in range(DRAWS)]
            draws = [accuracy(x, queries, chosen) for chosen in choices]
            results.append(LowShot.of(name, len(choices[0]), draws))
    return tuple(results)


def accuracy(train: Features, test: Features, chosen: Tensor) -> float:
    """Return the accuracy on the test images after a fit to the chosen training images."""
    (x, labels), (queries, truth) = train, test
    predicted = fit_logistic(x[chosen], labels[chosen]).predict(queries.double().numpy())
    return float((torch.from_numpy(predicted) == truth).float().mean())


def fit_logistic(x: Tensor, labels: Tensor) -> Any:
    """Return scikit-learn's classifier at the optimum, in float64."""
    from sklearn.linear_model import LogisticRegression

    two = len(labels.unique()) == 2  # scikit-learn then fits one vector w = W_1 - W_0, and |W|² is |w|²/2
    model = LogisticRegression(C=(2 if two else 1) / STRENGTH, tol=1e-8, max_iter=10_000)
    return model.fit(x.double().numpy(), labels.numpy())


def draw_images(labels: Tensor, images_per_class: int, draw: int) -> Tensor:
    """Return the indices of random images of each class, the same for the same `draw`."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    return torch.cat([order[labels[order] == label][:images_per_class] for label in labels.unique()])
