"""Quality of frozen features by k-NN, a linear probe and low-shot: one protocol for every objective and architecture.

Features are of the evaluation view, without augmentation. The linear probe's λ is chosen on validation images, which
are held out of the training set; the test images are used once. If the data's validation images are its test images,
like ImageNet's, a tenth of the training images is held out instead.

Low-shot probes are logistic regression on frozen features of a few labeled images:

    min_{W, b}  Σ_i CE(W x_i + b, y_i) + λ/2 |W|²

`measure_low_shot` is for every encoder: x is centered on the mean of all training images, which needs no labels, and
of length 1. λ is 0.075, MSN's for a ViT-S with 1 % of the labels: it is fixed because no labels are left to choose it
on. The labeled images are drawn several times, the same for every encoder.

`measure_few_labels` is MSN's evaluation (Assran et al. 2022, tables 1 and 2) with the settings of
`experiments/probes/msn.yaml`: b = 0, and x is z minus the mean over its own channels, of length 1. Source:
logistic_eval.py of facebookresearch/msn; its solver, cyanure, takes the mean over i and λ over the number of images,
and stops at a tolerance of 1e-3, where ours goes to the optimum.

N images, C features, K classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse.typing import PositiveFloat, PositiveInt
from scipy import stats
from scipy.stats import binomtest
from torch import Tensor

from vitlab.evaluation.classifiers import fit_linear_probe, predict_weighted
from vitlab.evaluation.features import Features

SHOTS = (1, 2, 5, 10)
DRAWS = 5
STRENGTH = 0.075  # λ
SPLITS = ("train", "val", "test")


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
    def of(cls, name: str, images: int, strength: float, draws: Sequence[float]) -> "LowShot":
        """Summarize; of a single draw the interval is all there is."""
        mean, low, high = float(np.mean(draws)), 0.0, 1.0
        if len(draws) > 1:
            margin = float(stats.sem(draws) * stats.t.ppf(0.975, len(draws) - 1))
            low, high = max(0.0, mean - margin), min(1.0, mean + margin)
        return cls(mean, low, high, name, images, strength, tuple(draws))

    def __str__(self) -> str:
        mean = f"{100 * self.value:.1f} %"
        if len(self.draws) > 1:
            mean += f" [{100 * self.low:.1f}, {100 * self.high:.1f}]"
        return f"{self.name:<18}  {mean}   {len(self.draws)} draw{'s' * (len(self.draws) > 1)}   λ = {self.strength:g}"


def measure_low_shot(train: Features, test: Features, shots: tuple[int, ...] = SHOTS) -> tuple[LowShot, ...]:
    """Fit on several draws of a few training images, and classify the test images. Features (N, C), labels (N,)."""
    mean = train[0].mean(dim=0)
    x, queries = ((F.normalize(features - mean, dim=1), labels) for features, labels in (train, test))
    return tuple(
        LowShot.of(
            name, len(choices[0]), STRENGTH, [accuracy(x, queries, each, STRENGTH, intercept=True) for each in choices]
        )
        for name, choices in draw_shots(train[1], shots, DRAWS).items()
    )


@dataclass(frozen=True)
class FewLabels:
    """Which training images are labeled, and λ: `few` up to the most `shots` per class, `more` above.

    Args:
        shots: Images per class, of which `draws` random choices are made.
        percent: Of all labels, one random choice.
        labeled: Files with names of labeled images instead, one a line; those of one name are draws of one subset.
    """

    shots: tuple[PositiveInt, ...]
    draws: PositiveInt
    percent: PositiveFloat
    few: PositiveFloat
    more: PositiveFloat
    labeled: tuple[Path, ...] = ()

    @property
    def share(self) -> str:
        """The name of the subset of `percent`."""
        return f"{self.percent:g} % of the labels"

    def listed(self, names: Sequence[str]) -> dict[str, list[Tensor]]:
        """Return the indices of the listed images among those with these names, by the name of the list."""
        subsets: dict[str, list[Tensor]] = {}
        for file in self.labeled:
            listed = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            subsets.setdefault(file.stem, []).append(listed_images(names, listed, str(file)))
        return subsets

    def drawn(self, labels: Tensor) -> dict[str, list[Tensor]]:
        """Return random subsets of training images with labels (N,), by name."""
        shots = draw_shots(labels, self.shots, self.draws)
        return shots | {self.share: [draw_percent(labels, self.percent)]}


def measure_few_labels(
    few_labels: FewLabels, train: Features, test: Features, subsets: dict[str, list[Tensor]]
) -> tuple[LowShot, ...]:
    """Fit on each subset of the training images, given by indices, and classify the test images."""
    x, queries = ((preprocess(features), labels) for features, labels in (train, test))
    results = []
    for name, choices in subsets.items():
        most = int(train[1][choices[0]].bincount().max())
        few = name != few_labels.share and most <= max(few_labels.shots)
        strength = few_labels.few if few else few_labels.more
        draws = [accuracy(x, queries, chosen, strength, intercept=False) for chosen in choices]
        results.append(LowShot.of(name, len(choices[0]), strength, draws))
    return tuple(results)


def preprocess(features: Tensor) -> Tensor:
    """Center each row (N, C) on its own mean, and scale it to length 1."""
    return F.normalize(features - features.mean(dim=1, keepdim=True), dim=1)


def accuracy(train: Features, test: Features, chosen: Tensor, strength: float, intercept: bool) -> float:
    """Return the accuracy on the test images after a fit to the chosen training images."""
    (x, labels), (queries, truth) = train, test
    weight, bias = fit_logistic(x[chosen], labels[chosen], strength, intercept)
    predicted = labels[chosen].unique()[F.linear(queries.double(), weight, bias).argmax(dim=1)]
    return float((predicted == truth).float().mean())


def fit_logistic(x: Tensor, labels: Tensor, strength: float, intercept: bool) -> tuple[Tensor, Tensor]:
    """Return the optimum's W (K, C) and b (K,), float64, in the order of the classes among the labels (N,)."""
    from sklearn.linear_model import LogisticRegression

    if len(labels.unique()) < 2:
        raise ValueError(f"The {len(labels)} labeled images are all of one class; a classifier needs two.")
    two = len(labels.unique()) == 2  # scikit-learn then fits one vector w = W_1 - W_0, and |W|² is |w|²/2
    model = LogisticRegression(C=(2 if two else 1) / strength, fit_intercept=intercept, tol=1e-8, max_iter=10_000)
    model.fit(x.double().numpy(), labels.numpy())
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_).double().expand(len(model.coef_))
    return (torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2) if two else (weight, bias)


def draw_shots(labels: Tensor, shots: tuple[int, ...], draws: int) -> dict[str, list[Tensor]]:
    """Return different draws of a few images of each class by name; a number that a class does not have is left out."""
    fewest = int(labels.bincount().min())
    found = {}
    for shot in (shot for shot in shots if shot <= fewest):
        drawn = [draw_images(labels, shot, draw) for draw in range(draws)]
        different = {tuple(each.sort().values.tolist()): each for each in drawn}  # all draws of a class may be equal
        found[f"{shot} label{'s' * (shot > 1)} per class"] = list(different.values())
    return found


def draw_images(labels: Tensor, images_per_class: int, draw: int) -> Tensor:
    """Return the indices of random images of each class, the same for the same `draw`."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(draw))
    return torch.cat([order[labels[order] == label][:images_per_class] for label in labels.unique()])


def draw_percent(labels: Tensor, percent: float) -> Tensor:
    """Return the indices of random images, as many of each class as of another ± 1, and at least one."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    turn = torch.empty_like(order)
    for label in labels.unique():
        members = order[labels[order] == label]
        turn[members] = torch.arange(len(members))
    number = max(round(percent / 100 * len(labels)), len(labels.unique()))
    return order[turn[order].argsort(stable=True)][:number]


def listed_images(names: Sequence[str], listed: Sequence[str], file: str) -> Tensor:
    """Return the indices of listed images, named with their folder or, where it is unique, by the name of the file."""
    if not listed:
        raise ValueError(f"{file} lists no image; list names like {names[0]}, one a line.")
    short = [name.rpartition("/")[2] for name in names]
    count = Counter(short)
    place = {name: index for index, name in enumerate(short) if count[name] == 1}
    place |= {name: index for index, name in enumerate(names)}
    missing = [name for name in listed if name not in place]
    if missing:
        raise ValueError(f"{file}: {missing[0]} is not a training image; list names like {names[0]}, one a line.")
    return torch.tensor([place[name] for name in listed])


@dataclass(frozen=True)
class Accuracy:
    """The fraction of correct test images, with its 95 % interval (Wilson's)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, predicted: Tensor, labels: Tensor) -> "Accuracy":
        """Compare predicted classes with labels."""
        right = int((predicted == labels).sum())
        low, high = binomtest(right, len(labels)).proportion_ci(method="wilson")
        return cls(right / len(labels), float(low), float(high))

    def columns(self, name: str) -> dict[str, float]:
        """Return a table's columns `name`, `name_low` and `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True)
class ProbeResult:
    """Test accuracies of one encoder; `strength` is the λ chosen on the validation images."""

    knn: Accuracy
    linear: Accuracy
    strength: float
    low_shot: tuple[LowShot, ...]
    features: int
    train_images: int
    test_images: int


def hold_out(train: Features, chosen: np.ndarray | None = None) -> dict[str, Features]:
    """Return the splits train and val of training images (N, C), (N,): a tenth of each class is for validation.

    They are spread over the class. Of a class of two images it is one, of a class of one none. Of images in groups,
    those `chosen` by their indices validate.
    """
    features, labels = train
    val = torch.zeros(len(labels), dtype=torch.bool)
    if chosen is not None:
        val[chosen] = True
    for label in labels.unique() if chosen is None else ():
        members = (labels == label).nonzero().flatten()
        count = min(max(round(len(members) / 10), 1), len(members) - 1)
        val[members[torch.arange(1, count + 1) * len(members) // (count + 1)]] = True
    if not val.any():
        raise ValueError("A linear probe chooses its strength on held-out images; no class has two training images.")
    return {"train": (features[~val], labels[~val]), "val": (features[val], labels[val])}


def probe_features(splits: dict[str, Features], num_classes: int) -> ProbeResult:
    """Measure k-NN (k = 20, weighted like DINO's), the linear probe, and low-shot with 1 to 10 labels per class."""
    train, val, test = (splits[split] for split in SPLITS)
    # The linear probe chooses λ on the validation images; the others choose nothing and may use them.
    bank = torch.cat([train[0], val[0]]), torch.cat([train[1], val[1]])
    linear = fit_linear_probe(train, val, num_classes)
    return ProbeResult(
        knn=Accuracy.of(predict_weighted(test[0], *bank, num_classes), test[1]),
        linear=Accuracy.of(linear.logits(test[0]).argmax(dim=1), test[1]),
        strength=linear.strength,
        low_shot=measure_low_shot(bank, test),
        features=train[0].shape[1],
        train_images=len(bank[0]),
        test_images=len(test[0]),
    )
