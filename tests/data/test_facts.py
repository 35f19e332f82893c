"""What a data set tells of itself, and what is known of it where it is gone."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.conftest import PhotoFolder, photo, photos
from vitlab.data import CIFAR10, Digits, ImageFolder

_COUNTS = {"train/cat": 4, "train/dog": 4, "val/cat": 2, "val/dog": 2}


def _digests(data: ImageFolder) -> dict[str, str]:
    return {split: fact["digest"] for split, fact in data.facts()["splits"].items()}


def test_facts_are_json_and_say_what_the_data_are(photo_folder: PhotoFolder) -> None:
    facts = photos(photo_folder(_COUNTS)).facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["classes"] == ["cat", "dog"]
    assert {split: fact["images"] for split, fact in facts["splits"].items()} == {"train": 8, "val": 4, "test": 4}
    assert facts["test_is_validation"] is True
    assert facts["splits"]["test"] == facts["splits"]["val"] != facts["splits"]["train"]


def test_digests_do_not_depend_on_the_place_nor_on_the_spelling_of_splits(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    # A run may go on from a copy on the machine's own disk ($SLURM_TMPDIR).
    root = photo_folder(_COUNTS)
    expected = _digests(photos(root))
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)  # other times of change
    assert _digests(photos(tmp_path / "copy")) == expected
    (tmp_path / "copy" / "val").rename(tmp_path / "copy" / "Validation")
    assert _digests(photos(tmp_path / "copy")) == expected


@pytest.mark.parametrize("change", ["bytes", "name", "label", "missing"])
def test_other_data_have_other_digests(photo_folder: PhotoFolder, change: str) -> None:
    root = photo_folder(_COUNTS)
    expected = _digests(photos(root))
    file = root / "train" / "cat" / "003.jpg"
    match change:
        case "bytes":  # a smaller copy under the same name
            photo(seed=3, width=25, height=20).save(file)
        case "name":
            file.rename(file.with_name("004.jpg"))
        case "label":
            file.rename(root / "train" / "dog" / "009.jpg")
        case "missing":
            file.unlink()
    found = _digests(photos(root))
    assert found["train"] != expected["train"]
    assert found["val"] == expected["val"]


def test_held_out_images_are_told_apart(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"cat": 10, "dog": 10})
    assert not photos(root).facts()["test_is_validation"]
    assert _digests(photos(root)) == _digests(photos(root, seed=1)) != _digests(photos(root, split_seed=1))


def test_data_in_memory_have_facts_too(cifar_root: Path) -> None:
    data = CIFAR10(root=str(cifar_root))
    facts = data.facts()
    assert facts["splits"]["test"]["images"] == 50
    assert facts["test_is_validation"] is False
    with np.load(cifar_root / "cifar10.npz") as stored:
        arrays = dict(stored)
    arrays["x_test"][7, 0, 0, 0] ^= 1
    np.savez(cifar_root / "cifar10.npz", **arrays)
    other = CIFAR10(root=str(cifar_root)).facts()
    assert other["splits"]["train"] == facts["splits"]["train"]
    assert other["splits"]["test"] != facts["splits"]["test"]
    assert Digits().facts() == Digits(seed=3).facts() != Digits(split_seed=3).facts()


def test_a_model_sees_other_pictures_where_the_training_folder_is_gone(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root = photo_folder(_COUNTS)
    whole = photos(root)
    facts = json.loads(json.dumps(whole.facts()))
    picture = photo(seed=5)
    expected = whole.preprocessing(picture)
    shutil.rmtree(root)
    data = photos(root)
    data.recall(facts)
    assert (data.class_names, data.num_classes, data.in_chans) == (["cat", "dog"], 2, 3)
    assert data.framing == whole.framing
    assert torch.equal(data.preprocessing(picture), expected)
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        data.setup("test")


def test_another_folders_images_are_not_tested_under_the_runs_classes(photo_folder: PhotoFolder) -> None:
    root = photo_folder(_COUNTS)
    facts = photos(root).facts()
    for split in ("train", "val"):
        os.rename(root / split / "cat", root / split / "zebra")
    data = photos(root)
    data.recall(facts)
    with pytest.raises(ValueError, match="has classes dog, zebra; the run's are cat, dog"):
        data.setup("test")
