"""A study without training: digits as images, a workshop that completes nothing, and `fake_vitlab.py` for the runs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
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
    class_names = [str(digit) for digit in range(10)]

    def __init__(self) -> None:
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
        if "init_args" not in config["model"] or "backbone" not in config["model"]["init_args"]:
            raise ValueError("model.init_args.backbone is missing. Name a backbone.")
        return merge(DEFAULTS, config)

    def data(self, config: dict[str, Any]) -> Digits:
        return self.images


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture
def workshop(digits: Digits) -> FakeWorkshop:
    return FakeWorkshop(digits)


def variant(accuracy: float, **init_args: Any) -> dict[str, Any]:
    """Return the override of a variant with a planted accuracy."""
    backbone = {"class_path": "fake.Backbone", "init_args": {"accuracy": accuracy, **init_args}}
    return {"model": {"init_args": {"backbone": backbone}}}


@pytest.fixture
def write_study(tmp_path: Path, digits: Digits) -> Callable[..., Path]:
    """Return a function that writes a study's files; its arguments replace the study's keys."""

    def write(**changes: Any) -> Path:
        test_set = tmp_path / "test_set.npz"
        np.savez(test_set, labels=digits.labels("test"), names=digits.image_names("test"), classes=10)
        base = {
            "seed_everything": 0,
            "data": {"class_path": "fake.Digits", "init_args": {"test_set": str(test_set), "batch_size": 64}},
        }
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        study = {
            "name": "Small study",
            "base": "base.yaml",
            "variants": {
                "ViT": variant(0.94, size=1.0),
                "Swin": variant(0.965, size=1.6),
                "Swin v2": variant(0.975, size=1.9),
            },
            "seeds": [1, 2, 3],
            "budget": {"epochs": 4},
            "may_differ": ["model.init_args.backbone"],
            "jobs": 2,
        }
        study = {key: value for key, value in {**study, **changes}.items() if value != "absent"}
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(study, sort_keys=False))
        return path

    return write
