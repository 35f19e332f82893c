"""The check of files before training: what is refused, what is found, what is remembered."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.conftest import check_images
from vitlab.data import checking, dataset
from vitlab.data.decoding import read_regular


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
