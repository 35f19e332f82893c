"""The check of files before training: what is refused, what is found, what is remembered."""

import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.data.conftest import PhotoFolder, check_images, photo, photos, png
from vitlab.data import checking, dataset
from vitlab.data.decoding import decode, read_regular


def _broken(folder: Path, kind: str) -> str:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    name = f"{kind}.png" if kind in ("float", "truncated_png") else f"{kind}.jpg"
    path = folder / name
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("not an image")
        case "missing":
            path.symlink_to("nowhere.jpg")
        case "truncated" | "truncated_png":
            picture.save(path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        case "large":
            Image.new("1", (10_000, 9_500)).save(path, format="PNG")
        case "float":
            Image.fromarray(np.zeros((4, 4), np.float32)).save(path, format="TIFF")
    return name


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("empty", "empty file"),
        ("text", "not an image"),
        ("missing", "No such file"),
        ("truncated", "truncated"),
        ("truncated_png", ""),
        ("large", "cut it into tiles"),  # between Pillow's warning and its error
        ("float", "range is unknown"),
    ],
)
def test_broken_file_is_found_with_its_reason(tmp_path: Path, kind: str, why: str) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "good.jpg")
    name = _broken(tmp_path, kind)
    broken, listing, *_ = check_images(tmp_path, ["good.jpg", name])
    assert list(broken) == [name]
    assert why in broken[name]
    assert str(tmp_path / name) in listing.read_text()


def test_second_check_decodes_only_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i}.png" for i in range(5)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    opened: list[str] = []

    def spy(path: Path) -> bytes:
        opened.append(path.name)
        return read_regular(path)

    monkeypatch.setattr(dataset, "read_regular", spy)
    check_images(tmp_path, names)
    assert sorted(opened) == names
    opened.clear()
    assert check_images(tmp_path, names)[0] == {}
    assert opened == []
    (tmp_path / "3.png").write_bytes(b"damaged since")
    assert list(check_images(tmp_path, names)[0]) == ["3.png"]
    assert opened == ["3.png"]


def test_check_of_the_same_bytes_in_another_folder_is_its_own(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / "x.png")
    check_images(tmp_path / "a", ["x.png"])
    (tmp_path / "b" / "x.png").write_bytes(b"")
    assert list(check_images(tmp_path / "b", ["x.png"])[0]) == ["x.png"]


def test_interrupted_check_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_CHUNK", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    names = [f"{i}.png" for i in range(6)]
    for name in names:
        Image.new("RGB", (4, 4)).save(tmp_path / name)

    def interrupt(path: Path) -> bytes:
        if path.name == "3.png":
            raise KeyboardInterrupt
        return read_regular(path)

    monkeypatch.setattr(dataset, "read_regular", interrupt)
    with pytest.raises(KeyboardInterrupt):
        check_images(tmp_path, names)

    opened: list[str] = []
    monkeypatch.setattr(dataset, "read_regular", lambda path: opened.append(path.name) or read_regular(path))
    check_images(tmp_path, names)
    assert sorted(opened) == ["3.png", "4.png", "5.png"]


def test_damaged_or_unwritable_cache_only_costs_time(tmp_path: Path, own_cache: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    check_images(tmp_path, ["x.png"])
    (cache,) = (own_cache / "vitlab").glob("*.npy")
    cache.write_bytes(b"rubbish")
    assert check_images(tmp_path, ["x.png"])[0] == {}
    os.environ["XDG_CACHE_HOME"] = str(tmp_path / "x.png")  # a file: nothing can be written below it
    assert check_images(tmp_path, ["x.png"])[0] == {}


# What is no photograph


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
