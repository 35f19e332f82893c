"""A prepared folder stands in for the folder: the same names, labels and splits, nearly the same pictures."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from vitlab.__main__ import main
from vitlab.atomic_files import written_whole
from vitlab.data import ImageFolder, PhotoAugment
from vitlab.data import packed as module
from vitlab.data.augment import BOX_DRAWS, CROP_RATIO, CROP_SCALE, crop_box
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.dataset import Split
from vitlab.data.packed import prepare

PhotoFolder = Callable[[dict[str, int]], Path]
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def _folder(root: Path, **arguments: object) -> ImageFolder:
    plain = PhotoAugment(rand_augment=None, erase_prob=0.0)
    defaults: dict = {"image_size": 28, "batch_size": 4, "num_workers": 0, "broken": "skip", "augment": plain}
    return ImageFolder(root=str(root), **{**defaults, **arguments})


def _psnr(ours: np.ndarray, reference: np.ndarray) -> float:
    error = np.square(ours.astype(float) - reference).mean()
    return 10 * np.log10(255**2 / max(error, 1e-9))


def _make_odd(root: Path) -> None:
    """Add to a class what is no ordinary JPEG."""
    place = root / "train" / "cat"
    photo = Image.open(place / "000.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(place / "turned.jpg", exif=exif)
    photo.convert("L").save(place / "gray.jpg")
    photo.convert("CMYK").save(place / "cmyk.jpg")
    photo.resize((20, 200)).save(place / "long.png")
    (place / "broken.jpg").write_bytes(b"")
    photo.save(place / os.fsdecode(b"caf\xe9.jpg"))


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("layout", [{"train/cat": 6, "train/dog": 9, "val/cat": 2, "val/dog": 2}, {"a": 20, "b": 30}])
def test_names_labels_and_splits_are_the_folders(
    photo_folder: PhotoFolder, tmp_path: Path, layout: dict[str, int], pixels: bool
) -> None:
    root = photo_folder(layout)
    if "train/cat" in layout:
        _make_odd(root)
    prepare(root, tmp_path / "packed", 32, pixels)
    before, after = _folder(root), _folder(tmp_path / "packed")
    assert after.class_names == before.class_names
    for split in _SPLITS:
        assert after.image_names(split) == before.image_names(split)
        assert np.array_equal(after.labels(split), before.labels(split))


def test_evaluation_of_prepared_pixels_is_the_folders_to_the_bit(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    # 32 = 28 / 0.875: what evaluation resizes to is what was stored.
    root = photo_folder({"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1})
    _make_odd(root)
    prepare(root, tmp_path / "pixels", 32, pixels=True)
    prepare(root, tmp_path / "jpeg", 32, pixels=False)
    whole = _folder(root).dataset("train")
    same, close = (_folder(tmp_path / name).dataset("train") for name in ("pixels", "jpeg"))
    for index in range(len(whole)):
        assert np.array_equal(same.raw(index), whole.raw(index))
        assert _psnr(close.raw(index), whole.raw(index)) > 38


@pytest.mark.parametrize("pixels", [False, True])
def test_a_crop_is_the_same_part_of_the_photograph(photo_folder: PhotoFolder, tmp_path: Path, pixels: bool) -> None:
    root = photo_folder({"train/cat": 6, "train/dog": 6, "val/cat": 1, "val/dog": 1})
    for path in root.glob("train/*/*.jpg"):
        Image.open(path).resize((500, 400)).save(path, quality=95)  # smooth: what a half pixel moves is little
    prepare(root, tmp_path / "packed", 64, pixels)
    augment = PhotoAugment(rand_augment=None, erase_prob=0.0, flip_prob=0.0)
    data = _folder(tmp_path / "packed", augment=augment, batch_size=12)
    (batch,) = data.train_dataloader()
    draws = Draws(0, 0, batch.indices).uniform(Stream.CROP, BOX_DRAWS).tolist()
    for index, draw, ours in zip(batch.indices.tolist(), draws, batch.images, strict=True):
        top, left, height, width = (x * 400 / 64 for x in crop_box(draw, 64, 80, CROP_SCALE, CROP_RATIO))
        with Image.open(root / data.image_names("train")[index]) as stored:
            box = (left, top, left + width, top + height)
            expected = stored.resize((28, 28), Image.Resampling.BICUBIC, box=box)
        assert _psnr(ours.permute(1, 2, 0).numpy(), np.asarray(expected)) > 33


def test_a_small_jpeg_is_kept_byte_for_byte(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder({"a": 3, "b": 3})
    prepare(root, tmp_path / "packed", 40, pixels=False)  # of 50 x 40
    table = pa.ipc.open_file(tmp_path / "packed" / module.FILE).read_all()
    for name, image in zip(table["name"].to_pylist(), table["image"].to_pylist(), strict=True):
        assert (root / os.fsdecode(name)).read_bytes() == image


def test_workers_that_inherit_nothing_open_the_file_themselves(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    prepare(photo_folder({"a": 4, "b": 4}), tmp_path / "packed", 32, pixels=True)
    dataset = _folder(tmp_path / "packed", val_fraction=0.3).dataset("train")
    sent = pickle.dumps(dataset)
    assert len(sent) < 32 * 32 * 3  # no photograph is in it
    assert np.array_equal(pickle.loads(sent).raw(0), dataset.raw(0))


def test_epochs_do_not_depend_on_workers(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    prepare(photo_folder({"a": 10, "b": 10}), tmp_path / "packed", 32, pixels=False)
    one, two = (
        torch.cat([batch.images for batch in _folder(tmp_path / "packed", num_workers=n).train_dataloader()])
        for n in (0, 2)
    )
    assert torch.equal(one, two)


# Broken photographs keep their place.


def test_broken_photographs_are_refused_or_skipped_as_from_the_folder(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root = photo_folder({"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1})
    _make_odd(root)
    said = prepare(root, tmp_path / "packed", 32, pixels=False)
    assert "1 of them cannot be decoded" in said
    assert "train/cat/broken.jpg: empty file" in (tmp_path / "packed" / "broken.txt").read_text()
    with pytest.raises(ValueError, match=r"1 of 16 images cannot be decoded(.|\n)*cat/broken\.jpg: empty file"):
        _folder(tmp_path / "packed", broken="refuse").setup("fit")
    assert "train/cat/broken.jpg" not in _folder(tmp_path / "packed", broken="skip").image_names("train")


def test_a_jpeg_damaged_in_the_file_is_named(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    prepare(photo_folder({"a": 4, "b": 4}), tmp_path / "packed", 32, pixels=False)
    path = tmp_path / "packed" / module.FILE
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\xff\xd8\xff", b"\0\0\0"))
    data = _folder(tmp_path / "packed", val_fraction=0.3)
    with pytest.raises(ValueError, match=r"a/00\d\.jpg in .*photos\.arrow is damaged(.|\n)*prepare"):
        data.raw_images("train", [0])


# Files that are not what they should be.


def test_half_written_files_are_refused(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder({"a": 4, "b": 4})
    prepare(root, tmp_path / "packed", 32, pixels=False)
    path = tmp_path / "packed" / module.FILE
    content = path.read_bytes()
    for length in (0, 5, 1000, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is not a complete Arrow file"):
            _ = _folder(tmp_path / "packed").class_names


def test_an_interrupted_preparation_leaves_what_was_there(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = photo_folder({"a": 4, "b": 4})
    with monkeypatch.context() as patch:
        patch.setattr(module.PackedPhoto, "of", classmethod(lambda cls, *_: (_ for _ in ()).throw(KeyboardInterrupt)))
        with pytest.raises(KeyboardInterrupt):
            prepare(root, tmp_path / "packed", 32, pixels=False)
    assert list((tmp_path / "packed").iterdir()) == []


def test_what_a_killed_preparation_leaves_is_named_and_removed_by_the_next(
    photo_folder: PhotoFolder, tmp_path: Path
) -> None:
    root, out = photo_folder({"a": 4, "b": 4}), tmp_path / "packed"
    with written_whole(out / module.FILE):
        (left,) = out.iterdir()
        shutil.copy(left, left.with_suffix(".2.new"))
    (out / module.FILE).unlink()
    with pytest.raises(ValueError, match="start it again if it was interrupted"):
        _ = _folder(out).class_names
    prepare(root, out, 32, pixels=False)
    assert sorted(path.name for path in out.iterdir()) == ["broken.txt", module.FILE]


def test_files_of_others_and_of_another_version_are_refused(
    photo_folder: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    with pa.ipc.new_file(tmp_path / "other" / module.FILE, pa.schema([("x", pa.int8())])):
        pass
    with monkeypatch.context() as patch:
        patch.setattr(module, "_VERSION", "0")
        prepare(photo_folder({"a": 4, "b": 4}), tmp_path / "old", 32, pixels=False)
    for name in ("other", "old"):
        with pytest.raises(ValueError, match=r"has another version(.|\n)*vitlab prepare"):
            _ = _folder(tmp_path / name).class_names


def test_files_written_before_contents_were_kept_are_read(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    prepare(photo_folder({"a": 4, "b": 4}), tmp_path / "new", 32, pixels=False)
    table = pa.ipc.open_file(tmp_path / "new" / module.FILE).read_all().drop_columns(["content", "faint"])
    (tmp_path / "old").mkdir()
    with pa.ipc.new_file(tmp_path / "old" / module.FILE, table.schema) as file:
        file.write_table(table)
    old, new = (_folder(tmp_path / name, val_fraction=0.3) for name in ("old", "new"))
    for split in _SPLITS:
        assert old.image_names(split) == new.image_names(split)
    assert old.facts()["splits"]["train"] != new.facts()["splits"]["train"]  # less is known of the same images


# The command.


def test_the_command_prepares_and_says_how_to_go_on(
    photo_folder: PhotoFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = photo_folder({"a": 4, "b": 4}), tmp_path / "packed"
    assert main(["prepare", "--root", str(root), "--out", str(out), "--short_side", "32", "--pixels"]) == 0
    assert f"--data.root {out}" in capsys.readouterr().out
    assert _folder(out).num_classes == 2
    for wrong, why in (
        (["--root", str(root), "--out", str(root / "packed")], "would become a class"),
        (["--root", str(out), "--out", str(tmp_path / "again")], "was itself prepared"),
        (["--root", str(root), "--out", str(out), "--short_side", "0"], "--short_side is 0"),
        (["--root", str(root), "--out", str(tmp_path)], f"contains {out.name}"),
        (["--root", str(tmp_path / "nowhere"), "--out", str(out)], "There is no folder"),
    ):
        assert main(["prepare", *wrong]) == 2
        assert why in capsys.readouterr().err
