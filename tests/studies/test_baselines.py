import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_study import Digits
from referee.formats import SPACE

import vitlab.data
from vitlab.evaluation import classifiers
from vitlab.studies import results as module
from vitlab.studies.results import baselines, duplicates


def test_the_majority_class_is_that_of_counting(digits: Digits, tmp_path: Path) -> None:
    measured = baselines(digits, {"class_path": "Digits"}, tmp_path / "cache.json")
    train, test = digits.labels("train"), digits.labels("test")
    most = np.bincount(train).argmax()
    assert measured.majority == (test == most).mean()
    assert measured.majority_class == str(most)
    assert measured.knn > 0.95
    assert not measured.subsampled


def test_the_cache_serves_the_same_data_only(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "cache.json"
    first = baselines(digits, {"split_seed": 0}, file)
    monkeypatch.setattr(module, "classify_pixels", partial(classifiers.classify_pixels, most=50))
    assert baselines(digits, {"split_seed": 0}, file) == first
    other = baselines(digits, {"split_seed": 1}, file)
    assert other.bank_images == 50
    assert other.describe_knn() == "as k-NN tests features, k = 20, among 50 of the training images"
    records = json.loads(file.read_text())
    records[-1]["found"]["knn"] = 0.25
    file.write_text(json.dumps(records))
    assert baselines(digits, {"split_seed": 1}, file).knn == 0.25
    file.write_text(json.dumps(records[-1]))  # one record, as older versions wrote
    assert baselines(digits, {"split_seed": 1}, file) == other


def test_the_baseline_of_a_folder_whose_images_changed_is_measured_again(tmp_path: Path) -> None:
    before = baselines(Digits(), {"root": "photos"}, tmp_path / "cache.json")
    fewer = Digits()
    fewer.splits["train"] = fewer.splits["train"][:300]
    now = baselines(fewer, {"root": "photos"}, tmp_path / "cache.json")
    assert (before.bank_images, now.bank_images) == (900, 300)


def test_pixels_are_tested_as_features_are_that_are_tested_by_neighbors(tmp_path: Path) -> None:
    """Votes of the 20 most similar images, exp(cosine / 0.07) each (DINO's eval_knn.py), in NumPy."""
    data = vitlab.data.Digits(image_size=8)
    measured = baselines(data, {"class_path": "Digits"}, tmp_path / "cache.json")
    rows, labels = {}, {}
    for split in ("train", "test"):
        batches = [(images.numpy(), targets.numpy()) for (images,), targets in data.batches(split, "cpu")]  # type: ignore
        flat = np.concatenate([images.reshape(len(images), -1) for images, _ in batches]).astype(np.float64)
        rows[split] = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        labels[split] = np.concatenate([targets for _, targets in batches])
    cosine = rows["test"] @ rows["train"].T
    nearest = np.argsort(-cosine, axis=1)[:, :20]
    votes = np.exp(np.take_along_axis(cosine, nearest, axis=1) / 0.07)[..., None] * np.eye(10)[labels["train"][nearest]]
    expected = (votes.sum(axis=1).argmax(axis=1) == labels["test"]).mean()
    assert measured.knn == pytest.approx(expected, abs=0.002)  # float32 breaks ties another way
    assert measured.describe_knn() == "as k-NN tests features, k = 20, among 1,078 training images"


# Copies of test images in other splits


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
