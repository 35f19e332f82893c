from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_study import Digits
from sklearn.neighbors import KNeighborsClassifier

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


def test_a_sample_keeps_the_proportions() -> None:
    labels = np.repeat([0, 1, 2], [5000, 3000, 2000])
    chosen = stratified_sample(labels, 100, np.random.default_rng(0))
    assert len(set(chosen)) == 100
    assert np.bincount(labels[chosen]).tolist() == [50, 30, 20]
    assert stratified_sample(labels[:40], 100, np.random.default_rng(0)).tolist() == list(range(40))


class Photos(Digits):
    """Images of different sizes: class by brightness."""

    def raw_images(self, split: str, indices: Sequence[int]) -> list[np.ndarray]:
        assert len(indices) <= module.DECODE
        return [np.full((60 + index % 7, 90, 3), index % 256, dtype=np.uint8) for index in indices]


def test_photos_are_shrunk_in_portions_whatever_their_size() -> None:
    rows = pixels(Photos(), "test", np.arange(300), 32)
    assert rows.shape == (300, 32 * 32 * 3)
    assert rows[200].tolist() == pytest.approx([200 / 255] * (32 * 32 * 3), abs=1e-5)
