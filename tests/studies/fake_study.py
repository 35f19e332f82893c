"""What a study needs without training: digits as images, a workshop, and `fake_vitlab.py` for the runs."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from vitlab.config import merge

FAKE_PROGRAM = (sys.executable, str(Path(__file__).with_name("fake_vitlab.py")))
DEFAULTS = {
    "model": {"class_path": "vitlab.objectives.Supervised", "init_args": {"label_smoothing": 0.1}},
    "trainer": {"max_epochs": 3, "accelerator": "cpu"},
}


class Digits:
    """The digits of scikit-learn in three splits."""

    num_classes = 10

    def __init__(self) -> None:
        self.class_names = [str(digit) for digit in range(10)]
        data = load_digits()
        order = np.random.default_rng(0).permutation(len(data.target))
        self.splits = dict(zip(("train", "val", "test"), np.split(order, [900, 1200]), strict=True))
        self.pixels = (data.images * 255 / 16).round().astype(np.uint8)[..., None]
        self.target = data.target.astype(np.int64)

    def image_names(self, split: str) -> list[str]:
        return [f"{split}/{index:05d}" for index in range(len(self.splits[split]))]

    def labels(self, split: str) -> np.ndarray:
        return self.target[self.splits[split]]

    def raw_images(self, split: str, indices: Sequence[int]) -> list[np.ndarray]:
        return list(self.pixels[self.splits[split][list(indices)]])


class FakeWorkshop:
    """Fills in a few defaults, as the command line fills in all of them."""

    def __init__(self, images: Digits) -> None:
        self.images = images

    def resolve(self, config: dict[str, Any]) -> dict[str, Any]:
        merged = merge(DEFAULTS, config)
        if "backbone" not in merged["model"]["init_args"]:
            raise ValueError("model.init_args.backbone is missing. Name a backbone.")
        return merged

    def data(self, config: dict[str, Any]) -> Digits:
        return self.images


def variant(accuracy: float, **init_args: Any) -> dict[str, Any]:
    """Return the override of a variant with a planted accuracy."""
    backbone = {"class_path": "fake.Backbone", "init_args": {"accuracy": accuracy, **init_args}}
    return {"model": {"init_args": {"backbone": backbone}}}
