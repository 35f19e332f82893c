from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_study import Digits
from sklearn.neighbors import KNeighborsClassifier

import vitlab.data
from vitlab.studies.results import baselines as module
from vitlab.studies.results.baselines import baselines, pixels, stratified_sample


def test_lines_are_those_of_counting_and_of_scikit_learn(digits: Digits, tmp_path: Path) -> None:
    measured = baselines(digits, {"class_path": "Digits"}, tmp_path / "cache.json")
    flat = {split: digits.pixels[rows].reshape(len(rows), -1) / 255 for split, rows in digits.splits.items()}
    train, test = digits.labels("train"), digits.labels("test")
    most = np.bincount(train).argmax()
    assert measured.majority == (test == most).mean()
    assert measured.majority_class == str(most)
    expected = KNeighborsClassifier(measured.k).fit(flat["train"], train).score(flat["test"], test)
    assert measured.knn == pytest.approx(expected, abs=0.003)  # scikit-learn breaks ties another way
    assert measured.knn > 0.95
    assert not measured.subsampled


def test_the_cache_serves_the_same_data_only(digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = baselines(digits, {"split_seed": 0}, tmp_path / "cache.json")
    monkeypatch.setattr(module, "BANK_IMAGES", 50)
    assert baselines(digits, {"split_seed": 0}, tmp_path / "cache.json") == first
    other = baselines(digits, {"split_seed": 1}, tmp_path / "cache.json")
    assert other.bank_images == 50
    assert other.subsampled
    assert "a stratified sample of 50 training images" in other.describe_knn()


def test_the_baseline_of_a_folder_whose_images_changed_is_measured_again(tmp_path: Path) -> None:
    before = baselines(Digits(), {"root": "photos"}, tmp_path / "cache.json")
    fewer = Digits()
    fewer.splits["train"] = fewer.splits["train"][:300]
    now = baselines(fewer, {"root": "photos"}, tmp_path / "cache.json")
    assert (before.bank_images, now.bank_images) == (900, 300)


def test_pixels_are_tested_as_features_are_that_are_tested_by_neighbors(tmp_path: Path) -> None:
    """Votes of the 20 most similar images, exp(cosine / 0.07) each (DINO's eval_knn.py), in NumPy."""
    data = vitlab.data.Digits(image_size=8)
    measured = baselines(data, {"class_path": "Digits"}, tmp_path / "cache.json", as_features=True)
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
    assert baselines(data, {"class_path": "Digits"}, tmp_path / "cache.json").as_features is False  # no cached one


def test_a_sample_keeps_the_proportions() -> None:
    labels = np.repeat([0, 1, 2], [5000, 3000, 2000])
    chosen = stratified_sample(labels, 100, np.random.default_rng(0))
    assert len(set(chosen)) == 100
    assert np.bincount(labels[chosen]).tolist() == [50, 30, 20]
    assert stratified_sample(labels[:40], 100, np.random.default_rng(0)).tolist() == list(range(40))


class Photos(Digits):
    """Images of different sizes: class by brightness."""

    def raw_images(self, split: str, indices: Sequence[int]) -> list[np.ndarray]:
        assert len(indices) == 1
        return [np.full((60 + index % 7, 90, 3), index % 256, dtype=np.uint8) for index in indices]


def test_photos_are_shrunk_one_by_one_whatever_their_size() -> None:
    rows = pixels(Photos(), "test", np.arange(300), 32)
    assert rows.shape == (300, 32 * 32 * 3)
    assert rows[200].tolist() == pytest.approx([200 / 255] * (32 * 32 * 3), abs=1e-5)
