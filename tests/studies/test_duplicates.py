from pathlib import Path

import numpy as np
import pytest
from fake_study import Digits
from referee.formats import SPACE

from vitlab.studies.results import duplicates


def leaking(train: int, val: int) -> Digits:
    """Return the digits with copies of some training and validation images in the test split."""
    digits = Digits()
    test = digits.splits["test"].copy()
    test[:train], test[train : train + val] = digits.splits["train"][:train], digits.splits["val"][:val]
    digits.splits["test"] = test
    return digits


def test_copies_of_training_and_validation_images_in_the_test_split_are_counted(tmp_path: Path) -> None:
    assert duplicates(Digits(), {}, tmp_path / "clean.json") == []
    found = duplicates(leaking(5, 2), {}, tmp_path / "cache.json")
    of_train, of_val = found  # worded as before a training, in tests/data/test_oddities.py
    assert "5 of 597 (test/00000 = train/00000, " in of_train
    assert "2 of 597 (test/00005 = val/00000, test/00006 = val/00001)." in of_val
    assert ["9 of 597" in line for line in duplicates(leaking(9, 9), {}, tmp_path / "cache.json")] == [True, True]


def test_a_test_split_that_is_the_validation_split_is_no_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = Digits()
    digits.splits["val"] = digits.splits["test"]
    monkeypatch.setattr(digits, "image_names", lambda split: [str(i) for i in digits.splits[split]])
    assert duplicates(digits, {}, tmp_path / "cache.json") == []


def test_images_whose_source_gives_no_hash_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = Digits()
    monkeypatch.setattr(digits, "contents", lambda split: np.zeros(len(digits.splits[split]), np.uint64))
    (found,) = duplicates(digits, {}, tmp_path / "cache.json")
    assert found.replace(SPACE, " ").startswith("Copies of 597 test images in other splits were not looked for")
