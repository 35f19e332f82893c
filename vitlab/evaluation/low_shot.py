"""Low-shot probe: logistic regression on frozen features of 1, 2 or 5 labeled images per class (MSN, table 1).

    min_{W, b}  Σ_i CE(W x_i + b, y_i) + λ/2 |W|²,    x centered on the mean of all training images, of length 1

The mean needs no labels. λ is 0.075, MSN's for a ViT-S with 1 % of the labels: it is fixed because no labels are left
to choose it on. The labeled images are drawn several times, the same for every encoder. Departures from MSN's code,
which `few_labels` follows: an intercept, the mean of images instead of each image's own over its channels, and the
features of `embed`, after the final norm.

N images, C features, K classes.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from vitlab.evaluation.linear import minimize

SHOTS = (1, 2, 5)
DRAWS = 5
STRENGTH = 0.075


@dataclass(frozen=True)
class LowShot:
    """Test accuracy with few labeled images per class: the mean over draws, and its 95 % interval (Student's)."""

    images_per_class: int
    value: float
    low: float
    high: float
    draws: tuple[float, ...]

    @classmethod
    def of(cls, images_per_class: int, draws: list[float]) -> "LowShot":
        """Summarize."""
        mean = float(np.mean(draws))
        margin = float(stats.sem(draws) * stats.t.ppf(0.975, len(draws) - 1))
        return cls(images_per_class, mean, max(0.0, mean - margin), min(1.0, mean + margin), tuple(draws))

    def __str__(self) -> str:
        few = f"{self.images_per_class} label{'' if self.images_per_class == 1 else 's'} per class"
        accuracy = f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{few:<18}  {accuracy}   {len(self.draws)} draws"


def measure_low_shot(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int, shots: tuple[int, ...] = SHOTS
) -> tuple[LowShot, ...]:
    """Fit on several draws of a few training images, and classify the test images. Features (N, C), labels (N,).

    Shots for which a class has too few images are skipped.
    """
    (features, labels), (queries, truth) = train, test
    mean = features.mean(dim=0)
    x, queries = (F.normalize(z - mean, dim=1) for z in (features, queries))
    fewest = int(labels.bincount(minlength=num_classes).min())
    results = []
    for shot in (shot for shot in shots if shot <= fewest):
        accuracies = []
        for draw in range(DRAWS):
            chosen = draw_images(labels, shot, draw)
            weight = torch.zeros(num_classes, x.shape[1], requires_grad=True)
            bias = torch.zeros(num_classes, requires_grad=True)
            minimize(weight, bias, x[chosen], labels[chosen], STRENGTH / len(chosen))  # minimize averages over i
            with torch.no_grad():
                accuracies.append(float((F.linear(queries, weight, bias).argmax(dim=1) == truth).float().mean()))
        results.append(LowShot.of(shot, accuracies))
    return tuple(results)


def draw_images(labels: Tensor, images_per_class: int, draw: int) -> Tensor:
    """Return the indices of random images of each class, the same for the same `draw`."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    return torch.cat([order[labels[order] == label][:images_per_class] for label in labels.unique()])
