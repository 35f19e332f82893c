"""Studies that train nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fake_study import Digits, FakeWorkshop, variant


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture
def workshop(digits: Digits) -> FakeWorkshop:
    return FakeWorkshop(digits)


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
