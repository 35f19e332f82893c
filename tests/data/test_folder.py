"""Which folders are splits, which are classes, and what is said of the rest."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data.conftest import PhotoFolder
from vitlab.data import ImageFolder
from vitlab.data.folder import Folder, walk


def _both(**splits: int) -> dict[str, int]:
    return {f"{split}/{name}": count for split, count in splits.items() for name in ("cat", "dog")}


def _refused(root: Path) -> str:
    with pytest.raises(ValueError, match=str(root.resolve())) as raised:
        Folder(root)
    message = str(raised.value)
    assert len(message.splitlines()) <= 3
    return message


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "validation", "test"),
        ("training", "valid", "testing"),
        ("train", "dev", "Test"),
        ("train", "val", "test"),
    ],
)
def test_splits_are_known_by_all_their_usual_names(photo_folder: PhotoFolder, train: str, val: str, test: str) -> None:
    # A `validation` beside `train` was passed over without a word, and a tenth of train held out in its place.
    listing = Folder(photo_folder(_both(**{train: 6, val: 2, test: 3})))
    assert {split: len(names) for split, (names, _) in listing.splits.items()} == {"train": 12, "val": 4, "test": 6}
    assert listing.splits["val"][0][0] == f"{val}/cat/000.jpg"
    assert f"val is {val}" in " ".join(listing.notes) if val != "val" else listing.notes == []


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (_both(train=2, val=1, Validation=1), "has Validation and val, and each could be the val split"),
        (_both(validation=2, test=2), "none is called train.*if they are classes, put all of them into a folder train"),
        (_both(train=4, holdout=2), "holdout has the classes of train.*name it val or test"),
        (_both(train=2) | {"test": 3}, "test has no folder of a class"),
    ],
)
def test_folders_that_are_not_clearly_splits_are_refused(
    photo_folder: PhotoFolder, counts: dict[str, int], said: str
) -> None:
    assert re.search(f"(?s){said}", _refused(photo_folder(counts)))


def test_folders_that_are_no_splits_are_counted_and_named(photo_folder: PhotoFolder) -> None:
    counts = _both(train=4, val=1) | {"annotations": 0, "unlabeled/2024": 2}
    root = photo_folder(counts)
    listing = Folder(root)
    assert "not splits and are not used: 2 (annotations, unlabeled)." in listing.notes[0]
    assert sorted(listing.splits) == ["train", "val"]
    for name in ("test", "train_old"):  # with all three splits a further one is only named
        shutil.copytree(root / "val", root / name)
    assert "train_old" in Folder(root).notes[0]


@pytest.mark.parametrize("name", ["train", "Validation"])
def test_a_folder_that_is_itself_a_split_is_refused(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    # Training on ds/validation would hold a tenth of it out, and never see ds/train.
    root = photo_folder(_both(train=4, Validation=2))
    message = _refused(root / name)
    assert f"{root / name} is one split of {root}" in message
    assert f"the folder of both, {root};" in message
    monkeypatch.chdir(root / name)
    assert "is one split of" in _refused(Path())
    (root / "alone").symlink_to(root / name)
    assert len(Folder(root / "alone").splits["train"][0]) > 0


def test_classes_may_be_called_like_splits_inside_of_train(photo_folder: PhotoFolder) -> None:
    assert Folder(photo_folder({"train/valid": 2, "train/invalid": 2})).class_names == ["invalid", "valid"]


def test_images_outside_of_class_folders_are_counted(photo_folder: PhotoFolder) -> None:
    root = photo_folder(_both(train=2, val=1))
    (root / "train" / "loose.JPG").touch()
    (root / "train" / "labels.csv").touch()
    (note,) = Folder(root).notes
    assert note == f"Images in {root} outside of class folders, left out: 1 ({root}/train/loose.JPG)."


def test_masks_beside_the_images_are_named_and_left_out_by_a_regular_expression(photo_folder: PhotoFolder) -> None:
    root = photo_folder(_both(train=3, val=1))
    (root / "train/cat/001.png").touch()
    (root / "val/dog/000_mask.png").touch()
    listing = Folder(root)
    assert _lengths(listing) == {"train": 7, "val": 3}
    assert listing.notes == [
        f"Names in {root} of several images each: 2 (train/cat/001, val/dog/000). If some are masks, leave them out: "
        r"--data.only '\.jpg$', a regular expression of file names."
    ]
    kept = Folder(root, only=r"\.jpg$")
    assert (_lengths(kept), kept.notes) == ({"train": 6, "val": 2}, [])
    with pytest.raises(ValueError, match=r"data.only is no regular expression: \*.jpg: nothing to repeat"):
        ImageFolder(root=str(root), only="*.jpg")


def test_a_class_of_other_files_says_what_it_contains(photo_folder: PhotoFolder) -> None:
    root = photo_folder(_both(train=2, val=1))
    for file in (root / "val" / "cat").iterdir():
        file.rename(file.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"val/cat has no image but other files, 1 \(1 \.heic\), so that the class"):
        Folder(root)


def _lengths(listing: Folder) -> dict[str, int]:
    return {split: len(labels) for split, (_, labels) in listing.splits.items()}


def test_a_folder_that_cannot_be_read_is_named(photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def refused(path: str) -> Iterator[os.DirEntry]:
        if str(path).endswith("inner"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    folder = photo_folder({"train/cat": 1})
    (folder / "train/cat/inner").mkdir()
    with pytest.raises(ValueError, match=r"train/cat/inner cannot be read \(Permission denied\); its images"):
        walk(folder)


_COMPOSED, _APART = "caf\u00e9", "cafe\u0301"


def test_a_class_is_the_same_in_either_unicode_form(photo_folder: PhotoFolder) -> None:
    root = photo_folder(
        {f"train/{_COMPOSED}": 2, "train/cafz": 2, f"val/{_APART}": 1, "val/cafz": 3, f"test/{_APART} ": 1}
    )
    found = Folder(root)
    assert found.class_names == ["cafz", _COMPOSED]
    assert found.splits["val"][1].tolist() == [0, 0, 0, 1]
    assert found.splits["test"][1].tolist() == [1]


def test_hidden_and_system_folders_are_left_out_and_counted(photo_folder: PhotoFolder) -> None:
    odd = [".ipynb_checkpoints", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "#recycle", "__MACOSX"]
    root = photo_folder(
        {"cat": 2, "dog": 2, **dict.fromkeys(odd, 1), "cat/@eaDir": 1, "dog/deep/.ipynb_checkpoints": 1}
    )
    found = Folder(root)
    assert found.class_names == ["cat", "dog"]
    assert len(found.splits["train"][0]) == 4
    (note,) = found.notes
    assert note.startswith(f"Files in {root} without the name of an image and hidden folders, which are left out: 8 (")
    assert all(f"{1 + (name in odd[:2])} folder {name}" in note for name in odd)


def test_folders_are_found_below_home_and_in_variables(
    photo_folder: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photo_folder({"cat": 2, "dog": 2, "$HOME/a": 2, "$HOME/b": 2})
    monkeypatch.setenv("HOME", str(root.parent))
    monkeypatch.chdir(root)
    assert ImageFolder(root="~/photos").class_names == ImageFolder(root="$HOME/photos").class_names
    assert ImageFolder(root="$HOME").class_names == ["a", "b"]  # a folder of just this name
