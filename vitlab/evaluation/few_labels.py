"""MSN's low-shot evaluation (Assran et al. 2022, tables 1 and 2): logistic regression on few labels, to convergence.

    min_W  Σ_i CE(W x_i, y_i) + λ/2 |W|²,    x_i: z_i minus the mean over its channels, scaled to length 1

z is the class token before the final norm. Source: logistic_eval.py of facebookresearch/msn; its solver, cyanure, takes
the mean over i and λ over the number of images, and centers and scales each row (cyanure's `preprocess`). λ is 0.0025
in the README for a few images per class, and 0.075 for a ViT-S with 1 % of the labels (the author, issue 11).

N images, C features, K classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlab.evaluation.features import Features
from vitlab.evaluation.low_shot import SHOTS, draw_images

DRAWS = 3  # the repository lists three subsets of 1, 2 and 5 images per class, and one of 1 %
FEW, MORE = 0.0025, 0.075  # λ: up to five images per class, and above
PERCENT = "1 % of the labels"


@dataclass(frozen=True)
class FewLabels:
    """Test accuracies with one number of labels, one for each choice of the labeled images."""

    name: str
    images: int  # labeled, of the first choice
    strength: float  # λ
    draws: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        mean, spread = 100 * float(np.mean(self.draws)), 100 * float(np.std(self.draws))
        deviation = f" ± {spread:.1f} over {len(self.draws)} draws" if len(self.draws) > 1 else ""
        return f"{self.name:<18}  {mean:.1f} %{deviation}   λ = {self.strength:g}"


def measure_few_labels(train: Features, test: Features, subsets: dict[str, list[Tensor]]) -> tuple[FewLabels, ...]:
    """Fit on each subset of the training images, given by indices, and classify the test images."""
    x, queries = preprocess(train[0]), preprocess(test[0])
    results = []
    for name, choices in subsets.items():
        few = name != PERCENT and int(train[1][choices[0]].bincount().max()) <= max(SHOTS)
        strength = FEW if few else MORE
        draws = []
        for chosen in choices:
            predicted = (queries.double() @ fit_logistic(x[chosen], train[1][chosen], strength).T).argmax(dim=1)
            classes = train[1][chosen].unique()
            draws.append(float((classes[predicted] == test[1]).float().mean()))
        results.append(FewLabels(name, len(choices[0]), strength, draws))
    return tuple(results)


def preprocess(features: Tensor) -> Tensor:
    """Center each row (N, C) on its own mean, and scale it to length 1."""
    return F.normalize(features - features.mean(dim=1, keepdim=True), dim=1)


def fit_logistic(x: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Return the weights (K, C) float64 of the optimum, rows in the order of the classes among the labels (N,)."""
    from sklearn.linear_model import LogisticRegression

    two = len(labels.unique()) == 2  # scikit-learn then fits one vector w = W_1 - W_0, and |W|² is |w|²/2
    model = LogisticRegression(C=(2 if two else 1) / strength, fit_intercept=False, tol=1e-8, max_iter=10_000)
    model.fit(x.double().numpy(), labels.numpy())
    weight = torch.from_numpy(model.coef_)
    return torch.cat([-weight, weight]) / 2 if two else weight


def draw_subsets(labels: Tensor) -> dict[str, list[Tensor]]:
    """Return random subsets of training images with labels (N,), by name, as published: 1, 2, 5 per class, and 1 %."""
    fewest = int(labels.bincount().min())
    subsets = {
        f"{shot} label{'s' * (shot > 1)} per class": [draw_images(labels, shot, draw) for draw in range(DRAWS)]
        for shot in SHOTS
        if shot <= fewest
    }
    return subsets | {PERCENT: [draw_percent(labels)]}


def draw_percent(labels: Tensor, percent: float = 1.0) -> Tensor:
    """Return the indices of random images, as many of each class as of another ± 1, and at least one."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    turn = torch.empty_like(order)
    for label in labels.unique():
        members = order[labels[order] == label]
        turn[members] = torch.arange(len(members))
    number = max(round(percent / 100 * len(labels)), len(labels.unique()))
    return order[turn[order].argsort(stable=True)][:number]


def listed_images(names: Sequence[str], listed: Sequence[str], file: str) -> Tensor:
    """Return the indices of listed images, named with their folder or, where it is unique, by the name of the file.

    Raises:
        ValueError: a listed image is not among `names`.
    """
    short = [name.rpartition("/")[2] for name in names]
    count = Counter(short)
    place = {name: index for index, name in enumerate(short) if count[name] == 1}
    place |= {name: index for index, name in enumerate(names)}
    missing = [name for name in listed if name not in place]
    if missing:
        raise ValueError(
            f"{file} lists {missing[0]} and {len(missing) - 1} more that are no training images; list names like "
            f"{names[0]}, one a line."
        )
    return torch.tensor([place[name] for name in listed])
