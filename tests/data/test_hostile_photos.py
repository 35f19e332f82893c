"""Folders that would break a program: damaged images by the hundred, bombs, pipes, loops, names that are no text."""

import os
from pathlib import Path
from unittest import mock

import pytest
from PIL import Image, ImageFile

from tests.data.conftest import PhotoFolder, check_images, photo, photos, png
from vitlab.data.decoding import decode, read_regular

# What is no photograph.


@pytest.mark.parametrize(("width", "height", "why"), [(30_000, 30_000, "cut it into tiles"), (1, 1, "1 x 1 pixels")])
def test_what_an_image_claims_is_judged_before_it_is_decoded(tmp_path: Path, width: int, height: int, why: str) -> None:
    (tmp_path / "a.png").write_bytes(png(width, height, 8, bytes(1000)))
    photo(seed=0).save(tmp_path / "b.png")
    with mock.patch.object(ImageFile.ImageFile, "load", autospec=True, side_effect=ImageFile.ImageFile.load) as load:
        assert why in check_images(tmp_path, ["a.png"])[0]["a.png"]
        assert not load.called
        assert check_images(tmp_path, ["b.png"])[0] == {}
        assert load.called  # which is how Pillow decodes


@pytest.mark.parametrize(("height", "why"), [(1, "30000 x 1 pixels"), (2, "more than 100 times"), (299, "100 times")])
def test_a_strip_is_refused(tmp_path: Path, height: int, why: str) -> None:
    # To cut 224 columns out of 30,000 x 2 pixels, they would first be made 3.8 million columns wide.
    Image.new("1", (30_000, height)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=why):
        decode(read_regular(tmp_path / "a.png"))


def test_a_long_panorama_is_no_strip(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 4, "b": 4})
    Image.new("RGB", (3000, 30)).save(root / "a" / "000.jpg")
    data = photos(root, val_fraction=0.3)
    for split in ("train", "val", "test"):
        for views, _ in data.batches(split, "cpu"):
            assert views[0].shape[1:] == (3, 16, 16)


def test_pipes_devices_and_folders_with_the_name_of_an_image_are_named(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 4, "b": 4})
    os.mkfifo(root / "a" / "pipe.jpg")  # opening it would wait for ever
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "b" / "folder.jpg").mkdir()
    with pytest.raises(ValueError, match=r"(?s)2 of 10 images.*pipe.jpg: not a regular file.*zero.png: not a"):
        photos(root).setup("fit")


# Links.


def test_links_that_lead_back_are_not_followed(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"cat": 10, "dog": 10})
    whole = photos(root)
    (root / "cat" / "up").symlink_to(root)  # through it, dogs would be cats
    (root / "cat" / "self").symlink_to(".")
    (root / "all").symlink_to(".")  # a class of everything
    (root / "cat" / "deep").mkdir()
    (root / "cat" / "deep" / "back").symlink_to("..")
    linked = photos(root)
    assert linked.class_names == ["cat", "dog"]
    for split in ("train", "val", "test"):
        assert linked.image_names(split) == whole.image_names(split)


def test_a_folder_elsewhere_may_be_linked(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder({"cat": 6, "dog": 6})
    (root / "cat").rename(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    assert photos(root).class_names == ["cat", "dog"]


# A folder that changes.


def test_an_image_that_goes_between_listing_and_checking_is_a_broken_one(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 10, "b": 10})
    data = photos(root, broken="skip")
    assert data.class_names == ["a", "b"]
    (root / "a" / "000.jpg").unlink()
    (root / "b" / "000.jpg").rename(root / "b" / "renamed.jpg")
    assert sum(len(data.labels(split)) for split in ("train", "val", "test")) == 18
