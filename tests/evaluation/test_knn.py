from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from vitlab.evaluation.classifiers import classify_pixels


class Photos:
    """Images of 32 px whose splits are parts of one set."""

    num_classes = 4

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.images = torch.rand(370, 3, 32, 32)
        target = self.images[:, 0, 0, 0] * 4
        self.rows, self.target = self.images.flatten(1).numpy(), target.long()
        self.parts = {"train": range(200), "val": range(200, 300), "test": range(300, 370)}

    def labels(self, split: str) -> np.ndarray:
        return self.target[list(self.parts[split])].numpy()

    def batches(self, split: str, device: object, every: int = 1) -> Iterator[tuple[list[Tensor], Tensor]]:
        for chunk in torch.tensor(self.parts[split])[::every].split(32):
            yield [self.images[chunk]], self.target[chunk]


@pytest.mark.parametrize(
    ("bank", "most", "examples"),
    [(["train"], 50_000, range(200)), (["train", "val"], 50_000, range(300)), (["train"], 100, range(0, 200, 2))],
)
def test_pixels_are_classified_as_scikit_learn_does_by_the_same_votes(
    bank: list[str], most: int, examples: range
) -> None:
    photos = Photos()
    found, labels, count = classify_pixels(photos, bank, "test", most=most)
    votes = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    votes.fit(photos.rows[list(examples)], photos.target[list(examples)])
    expected = votes.predict(photos.rows[list(photos.parts["test"])])
    assert np.mean(found.numpy() == expected) > 0.97  # float32 breaks near ties another way
    assert labels.tolist() == photos.labels("test").tolist()
    assert count == len(examples)
