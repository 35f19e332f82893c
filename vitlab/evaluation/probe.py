"""Quality of frozen features by k-NN, a linear probe and low-shot: one protocol for every objective and architecture.

Features are of the evaluation view, without augmentation. The linear probe's λ is chosen on validation images, which
are held out of the training set; the test images are used once. If the data's validation images are its test images,
like ImageNet's, a tenth of the training images is held out instead.
"""

from dataclasses import dataclass

import torch
from scipy.stats import binomtest
from torch import Tensor

from vitlab.evaluation.features import Features
from vitlab.evaluation.knn import predict_weighted
from vitlab.evaluation.linear import fit_linear_probe
from vitlab.evaluation.low_shot import LowShot, measure_low_shot

SPLITS = ("train", "val", "test")


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


def hold_out(train: Features) -> dict[str, Features]:
    """Return the splits train and val of training images (N, C), (N,): a tenth of each class is for validation.

    They are spread over the class. Of a class of two images it is one, of a class of one none.

    Raises:
        ValueError: no class has two images.
    """
    features, labels = train
    val = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
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
