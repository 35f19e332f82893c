"""Folders that would break a program: damaged images by the hundred, bombs, pipes, loops, names that are no text."""

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image, ImageFile

from tests.conftest import TINY
from tests.data.conftest import check_images, photo
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.data import ImageFolder
from vitlab.data.decoding import read_photo

PhotoFolder = Callable[[dict[str, int]], Path]
ODD = os.fsdecode(b"caf\xe9.jpg")  # Latin-1 on a file system of UTF-8
TEXT = "caf\\xe9.jpg"


def _experiment(root: Path, changes: Config | None = None) -> list[str]:
    """Write the tiny experiment on a folder of photographs; return the arguments that name it."""
    plain = {"augment": {"rand_augment": None}}
    data = {"root": str(root), "image_size": 16, "batch_size": 16, "num_workers": 0, "broken": "skip", **plain}
    folder = {"data": {"class_path": "vitlab.data.ImageFolder", "init_args": data}}
    Path("tiny.yaml").write_text(yaml.safe_dump(merge(merge(TINY, folder), changes or {})))
    return ["--config", "tiny.yaml"]


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


# What is no photograph.


@pytest.mark.parametrize(("width", "height", "why"), [(30_000, 30_000, "decompression bomb"), (1, 1, "1 x 1 pixels")])
def test_what_an_image_claims_is_judged_before_it_is_decoded(tmp_path: Path, width: int, height: int, why: str) -> None:
    (tmp_path / "a.png").write_bytes(_png_that_claims(width, height))
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
        read_photo(tmp_path / "a.png")


def test_a_long_panorama_is_no_strip(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 4, "b": 4})
    Image.new("RGB", (3000, 30)).save(root / "a" / "000.jpg")
    data = ImageFolder(root=str(root), image_size=16, batch_size=2, num_workers=0, val_fraction=0.3)
    for split in ("train", "val", "test"):
        for views, _ in data.batches(split, "cpu"):
            assert views[0].shape[1:] == (3, 16, 16)


@pytest.mark.filterwarnings("error")
def test_pictures_that_nobody_listed_are_judged_alike(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png_that_claims(10_000, 9_000))  # above Pillow's warning, below its error
    with pytest.raises(ValueError, match="decompression bomb"):
        read_photo(tmp_path / "a.png")


def test_pipes_devices_and_folders_with_the_name_of_an_image_are_named(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 4, "b": 4})
    os.mkfifo(root / "a" / "pipe.jpg")  # opening it would wait for ever
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "b" / "folder.jpg").mkdir()
    data = ImageFolder(root=str(root), image_size=16, num_workers=0, broken="refuse")
    with pytest.raises(ValueError, match="not a regular file") as raised:
        data.setup("fit")
    assert "2 of 10 images" in str(raised.value)
    assert "pipe.jpg" in str(raised.value)
    assert "zero.png" in str(raised.value)


# Links.


def test_links_that_lead_back_are_not_followed(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"cat": 10, "dog": 10})
    whole = ImageFolder(root=str(root), image_size=16, num_workers=0)
    (root / "cat" / "up").symlink_to(root)  # through it, dogs would be cats
    (root / "cat" / "self").symlink_to(".")
    (root / "all").symlink_to(".")  # a class of everything
    (root / "cat" / "deep").mkdir()
    (root / "cat" / "deep" / "back").symlink_to("..")
    linked = ImageFolder(root=str(root), image_size=16, num_workers=0)
    assert linked.class_names == ["cat", "dog"]
    for split in ("train", "val", "test"):
        assert linked.image_names(split) == whole.image_names(split)


def test_two_links_to_each_other_end(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"cat/a": 2, "cat/b": 2, "dog": 4})
    (root / "cat" / "a" / "to_b").symlink_to("../b")
    (root / "cat" / "b" / "to_a").symlink_to("../a")
    names = ImageFolder(root=str(root), image_size=16, num_workers=0, val_fraction=0.2).image_names("train")
    assert all(name.count("to_") <= 1 for name in names)


def test_a_folder_elsewhere_may_be_linked(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder({"cat": 6, "dog": 6})
    (root / "cat").rename(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder(root=str(root), image_size=16, num_workers=0, val_fraction=0.2).class_names == ["cat", "dog"]


# A folder that changes.


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", ["deleted", "truncated"])
def test_an_image_that_goes_while_a_run_reads_is_named_and_restored_the_same_command_goes_on(
    photo_folder: PhotoFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int,
    change: str,
) -> None:
    from vitlab.runs.record import RunRecord

    monkeypatch.chdir(tmp_path)
    root = photo_folder({f"{split}/{name}": 8 for split in ("train", "val") for name in ("a", "b")})
    lost = root / "train" / "b" / "003.jpg"
    whole = lost.read_bytes()
    changes: Config = {"trainer": {"max_epochs": 3}, "data": {"init_args": {"batch_size": 4, "num_workers": workers}}}
    arguments = [*_experiment(root, changes), "--run.checkpoint.max_time_share", "1"]

    def damage(self: RunRecord, trainer: object, module: object) -> None:
        if module.current_epoch == 1:  # type: ignore[attr-defined]
            lost.unlink() if change == "deleted" else os.truncate(lost, 300)

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "on_train_epoch_start", damage, raising=False)
        assert run("fit", arguments) == 2
    said = capsys.readouterr().err.partition("error: ")[2]
    assert str(lost) in said
    assert "Restore it" in said
    assert len(said.splitlines()) <= 5
    assert "Traceback" not in said
    assert run("fit", arguments) == 2  # not from a state that has seen other images
    assert (change == "deleted") or f"{lost}: " in capsys.readouterr().err  # what is not there is not listed again
    lost.write_bytes(whole)
    assert run("fit", arguments) == 0
    assert json.loads(Path("runs/tiny/seed-0/summary.json").read_text())["epochs"] == 3


def test_an_image_that_goes_between_listing_and_checking_is_a_broken_one(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 10, "b": 10})
    data = ImageFolder(root=str(root), image_size=16, num_workers=0, broken="skip")
    assert data.class_names == ["a", "b"]
    (root / "a" / "000.jpg").unlink()
    (root / "b" / "000.jpg").rename(root / "b" / "renamed.jpg")
    assert sum(len(data.labels(split)) for split in ("train", "val", "test")) == 18


# Names.


@pytest.mark.slow
@pytest.mark.usefixtures("names_of_any_bytes")
def test_a_name_that_is_no_text_is_in_everything_that_is_written(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    odd_class = os.fsdecode(b"K\xe4se")
    root = photo_folder({"train/a": 4, f"train/{odd_class}": 4, "val/a": 2, f"val/{odd_class}": 2})
    for split in ("train", "val"):
        (root / split / odd_class / "000.jpg").rename(root / split / odd_class / ODD)
    (root / "train" / "a" / os.fsdecode(b"br\xfcck.jpg")).write_bytes(b"")
    arguments = _experiment(root, {"data": {"init_args": {"batch_size": 2}}})
    assert run("fit", arguments) == 0
    name = f"val/K\\xe4se/{TEXT}"
    assert name in pd.read_parquet("runs/tiny/seed-0/predictions.parquet")["image"].tolist()
    config = ["--config", "runs/tiny/seed-0/config.yaml"]
    assert run("predict", [*config, "--images", str(root), "--out", "named"]) == 0
    assert name in pd.read_csv("named/predictions.csv")["file"].tolist()
    assert name in pd.read_parquet("named/predictions.parquet")["file"].tolist()
    page = Path("named/index.html").read_text()
    assert name in page
    assert "br\\xfcck.jpg" in page
    assert run("visualize", [*config, "--out", "drawn"]) == 0


# Damage.

KINDS = ("cut", "flipped", "header", "swapped", "middle", "tail")


def _damaged(good: bytes, kind: str, rng: np.random.Generator) -> bytes:
    content = bytearray(good)
    place = int(rng.integers(len(good)))
    match kind:
        case "cut":
            return good[:place]
        case "flipped":
            for at in rng.integers(len(good), size=int(rng.integers(1, 20))):
                content[at] ^= 1 << int(rng.integers(8))
        case "header":
            content[: int(rng.integers(1, 40))] = rng.bytes(20)
        case "swapped":
            content[:8] = b"\xff\xd8\xff\xe0\0\x10JF" if good[:4] == b"\x89PNG" else b"\x89PNG\r\n\x1a\n"
        case "middle":
            content[place : place + int(rng.integers(1, 200))] = b""
        case "tail":
            content[place:] = rng.bytes(len(good) - place)
    return bytes(content)


def test_hundreds_of_damaged_images_cost_their_own_names_and_nothing_else(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    damaged = []
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(40):
            file = tmp_path / "photos" / name / f"good{i:02d}"
            photo(seed=i, width=64, height=48).save(file.with_suffix(".png" if i % 2 else ".jpg"))
        for i in range(240):
            out, form = io.BytesIO(), ("png", "jpeg")[i // 2 % 2]
            photo(seed=100 + i, width=64, height=48).save(out, form)
            file = tmp_path / "photos" / name / f"bad{i:03d}-{KINDS[i % len(KINDS)]}.{form}"
            file.write_bytes(_damaged(out.getvalue(), KINDS[i % len(KINDS)], rng))
            damaged.append(file)

    assert run("fit", [*_experiment(Path("photos"))]) == 0
    said = capsys.readouterr().err
    undecodable = [file for file in damaged if _why(file)]
    assert f"{len(undecodable)} of 560 images cannot be decoded and are left out" in said
    assert 200 < len(undecodable) < 480  # some are only a little wrong, as a viewer would find too
    (listing,) = (own_cache / "vitlab").glob("*.txt")
    assert str(listing) in said
    named = {line.split(": ")[0] for line in listing.read_text().splitlines()}
    assert named == {str(file.relative_to(tmp_path)) for file in undecodable}
    data = ImageFolder(root="photos", image_size=16, num_workers=0, broken="skip")
    used = {name for split in ("train", "val", "test") for name in data.image_names(split)}
    decodable = {str(file.relative_to(tmp_path / "photos")) for file in damaged if file not in undecodable}
    assert decodable < used
    assert len(used) == 560 - len(undecodable)
    assert json.loads(Path("runs/tiny/seed-0/summary.json").read_text())["finished"]


def _why(file: Path) -> str | None:
    try:
        read_photo(file)
    except ValueError as error:
        return str(error)
    return None
