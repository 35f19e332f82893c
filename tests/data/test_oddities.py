"""What is said of odd data, once, before training: nothing of it is left out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import PhotoFolder, photo, photos
from vitlab.data import ImageFolder, LabelTable
from vitlab.data.checking import oddities
from vitlab.data.decoding import IMAGE_SUFFIXES, decode, read_regular


def _read(root: Path, **arguments: object) -> ImageFolder:
    data = photos(root, **arguments)
    data.prepare_data()
    data.setup("test")
    return data


# Classes.


def test_classes_of_a_single_image_are_named(photo_folder: PhotoFolder, said: list[str]) -> None:
    # Three classes of one image and one of forty: four images of one class tested, and nothing said it.
    data = _read(photo_folder({"a": 1, "b": 1, "c": 1, "d": 40}))
    assert data.labels("test").tolist() == [3] * 4
    assert said == [
        "The train split has a single image of 3 of 4 classes (a, b, c).",
        "The test split has no image of 3 of 4 classes (a, b, c).",
        "The test split has fewer than 10 images of 1 of 4 classes (d).",
        "The val split has no image of 3 of 4 classes (a, b, c).",
    ]


# Duplicates.


def _with_duplicates(photo_folder: PhotoFolder) -> Path:
    root = photo_folder({f"{split}/{name}": 10 for split in ("train", "val", "test") for name in ("a", "b")})
    for i in range(5):
        shutil.copy(root / "train" / "a" / f"00{i}.jpg", root / "test" / "b" / f"00{i}.jpg")
    shutil.copy(root / "val" / "a" / "000.jpg", root / "test" / "a" / "000.jpg")
    shutil.copy(root / "train" / "a" / "007.jpg", root / "train" / "a" / "008.jpg")  # costs nothing
    return root


def test_the_same_image_in_two_splits_is_counted_and_named_and_stays(
    photo_folder: PhotoFolder, said: list[str]
) -> None:
    data = _read(_with_duplicates(photo_folder))
    assert said == [
        "Images of the test split that are in the train split too, byte for byte, which inflates accuracy: 5 of 20 ("
        "test/b/000.jpg = train/a/000.jpg, test/b/001.jpg = train/a/001.jpg, test/b/002.jpg = train/a/002.jpg "
        "and 2 more).",
        "Images of the test split that are in the val split too, byte for byte, which inflates accuracy: 1 of 20 ("
        "test/a/000.jpg = val/a/000.jpg).",
    ]
    assert len(data.labels("test")) == 20


def test_look_alikes_across_splits_are_one_line_and_copies_are_none_of_them(
    photo_folder: PhotoFolder, said: list[str]
) -> None:
    root = photo_folder({f"{split}/{name}": 10 for split in ("train", "val", "test") for name in ("a", "b")})
    with Image.open(root / "train/b/004.jpg") as picture:
        picture.resize((75, 60)).save(root / "test/a/3x.png")
    with Image.open(root / "val/a/002.jpg") as picture:
        picture.point(lambda value: value * 4 // 5).save(root / "test/b/000.jpg", quality=60)
    shutil.copy(root / "train/a/000.jpg", root / "test/a/000.jpg")
    _read(root)
    assert said[1:] == [
        "Images of the test split that look almost like images of another split, which inflates accuracy if they show "
        "one scene (`groups` keeps it in one split): 2 of 21 (test/a/3x.png and train/b/004.jpg, test/b/000.jpg and "
        "val/a/002.jpg)."
    ]


def test_one_image_with_two_labels_in_a_split_is_named_with_both(
    photo_folder: PhotoFolder, said: list[str], tmp_path: Path
) -> None:
    root = photo_folder({f"{split}/{name}": 10 for split in ("train", "val", "test") for name in ("a", "b")})
    for own, other in (("a/001", "b/003"), ("a/001", "a/002"), ("b/005", "b/006")):
        shutil.copy(root / "train" / f"{own}.jpg", root / "train" / f"{other}.jpg")
    _read(root)
    remark = "Images of the train split with two labels, though byte for byte the same: 1 of "
    assert said == [f"{remark}20 (train/b/003.jpg (b) = train/a/001.jpg (a))."]
    said.clear()
    files = [f"train/a/00{i}.jpg" for i in range(4)] + ["train/b/003.jpg"]
    (tmp_path / "labels.csv").write_text("file,x,y\n" + "".join(f"{file},1,{i}\n" for i, file in enumerate(files)))
    table = LabelTable(str(tmp_path / "labels.csv"), root=str(root))
    assert oddities(["x", "y"], table.subsets(table.check()), table.check()) == [
        f"{remark}5 (train/a/002.jpg = train/a/001.jpg, train/b/003.jpg = train/a/001.jpg).".replace("1 of", "2 of")
    ]


# Sixteen bits.


def _faint(path: Path, low: int = 30_000, high: int = 30_160) -> None:
    Image.fromarray(np.linspace(low, high, 400).reshape(20, 20).astype(np.uint16)).save(path)


def test_sixteen_bit_pictures_that_become_blank_are_named(photo_folder: PhotoFolder, said: list[str]) -> None:
    # A network was trained on the constant 117, and nothing said it.
    root = photo_folder({f"{split}/{name}": 10 for split in ("train", "val", "test") for name in ("a", "b")})
    for i in range(4):
        _faint(root / "train" / "a" / f"faint{i}.png", high=30_160 + i)
    _faint(root / "train" / "b" / "whole.png", 0, 60_000)
    _faint(root / "train" / "b" / "black.png", 0, 0)  # of one value in the file too
    for _ in range(2):
        said.clear()
        _read(root)
        assert said == [
            "Images of 16 bits that 8 bits (value / 257) leave nearly blank, unless data.window is given: 4 of 66 "
            "(train/a/faint0.png, train/a/faint1.png, train/a/faint2.png and 1 more)."
        ]


# Suffixes.

_WRITABLE = [
    *(".jpe", ".mpo", ".apng", ".dib", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".tga", ".dds", ".ico", ".qoi", ".pcx", ".sgi"),
]


@pytest.mark.parametrize("suffix", _WRITABLE)
def test_what_pillow_decodes_alone_is_an_image(tmp_path: Path, suffix: str) -> None:
    assert suffix in IMAGE_SUFFIXES
    picture = photo(seed=1, width=32, height=32)
    picture.save(tmp_path / f"a{suffix}", **({"sizes": [(32, 32)]} if suffix == ".ico" else {}))
    error = np.abs(decode(read_regular(tmp_path / f"a{suffix}")).astype(int) - np.asarray(picture))
    assert error.mean() < 8
