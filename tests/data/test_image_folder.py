"""Folders of photographs: layouts, held-out parts, and every way in which a folder can be wrong."""

import os
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from PIL import Image
from torch import Tensor, nn

from tests.data.conftest import PhotoFolder, photos
from tests.objectives.small import quick_trainer
from vitlab.data import ImageFolder, PhotoAugment
from vitlab.data.dataset import Split, View
from vitlab.data.decoding import Half, Pixels

_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_THREE = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in ("cat", "dog")}
_ONE_FOLDER = {"cat": 20, "dog": 30}


def test_three_folders_are_the_three_splits(photo_folder: PhotoFolder) -> None:
    data = photos(photo_folder(_THREE))
    assert data.class_names == ["cat", "dog"]
    assert data.has_test
    assert (data.num_classes, data.image_size, data.in_chans) == (2, 16, 3)
    for split in _SPLITS:
        assert data.image_names(split) == [f"{split}/{name}/{i:03d}.jpg" for name in ("cat", "dog") for i in range(3)]
        assert data.labels(split).tolist() == [0, 0, 0, 1, 1, 1]


def test_without_a_test_folder_the_validation_split_tests_and_says_so(
    photo_folder: PhotoFolder, said: list[str]
) -> None:
    data = photos(photo_folder({"train/a": 4, "train/b": 4, "val/a": 2, "val/b": 2}))
    assert data.image_names("test") == data.image_names("val")
    assert not data.has_test
    assert "the test split is the validation split" in said[0]
    assert data.facts()["test_is_validation"]


def test_with_a_test_fraction_training_images_test(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/a": 10, "train/b": 10, "val/a": 2, "val/b": 2})
    data = photos(root, test_fraction=0.2)
    assert [len(data.labels(split)) for split in _SPLITS] == [16, 4, 4]
    assert all(name.startswith("train/") for name in data.image_names("test"))


def test_one_folder_is_split_stratified(photo_folder: PhotoFolder) -> None:
    data = photos(photo_folder(_ONE_FOLDER), val_fraction=0.1, test_fraction=0.2)
    assert [np.bincount(data.labels(split)).tolist() for split in _SPLITS] == [[14, 21], [2, 3], [4, 6]]
    names = [name for split in _SPLITS for name in data.image_names(split)]
    assert len(set(names)) == 50


def test_repairing_an_image_moves_no_other_between_the_splits(photo_folder: PhotoFolder) -> None:
    root = photo_folder(_ONE_FOLDER)
    whole = {split: photos(root).image_names(split) for split in _SPLITS}
    (root / "cat" / "007.jpg").write_bytes(b"")
    damaged = {split: photos(root, broken="skip").image_names(split) for split in _SPLITS}
    for split in _SPLITS:
        assert damaged[split] == [name for name in whole[split] if name != "cat/007.jpg"]


def test_images_may_lie_deeper_and_hidden_files_are_not_images(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/a/2023": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    (root / "train" / "b" / "._000.jpg").write_bytes(b"resource fork")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    data = photos(root)
    assert data.image_names("train") == [
        "train/a/2023/000.jpg",
        "train/a/2023/001.jpg",
        "train/b/000.jpg",
        "train/b/001.jpg",
    ]
    assert data.class_names == ["a", "b"]


# Batches.


def test_batches_hold_the_named_images(photo_folder: PhotoFolder) -> None:
    data = photos(photo_folder(_THREE), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = torch.cat([views[0] for views, _ in data.batches("test", "cpu")])
    raw = torch.from_numpy(np.stack(data.raw_images("test", range(6)))).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(images, raw)
    stored = Image.open(Path(data.root) / data.image_names("test")[4])
    assert data.raw_images("test", [4])[0].mean(axis=(0, 1)) == pytest.approx(np.asarray(stored).mean((0, 1)), abs=25)


def test_training_images_do_not_depend_on_workers_or_batch_size(photo_folder: PhotoFolder) -> None:
    # Two workers share the batches, each with generators of its own: still the same pictures, in the same order.
    root = photo_folder({"train/a": 6, "train/b": 6, "val/a": 1, "val/b": 1})

    def epoch(workers: int, batch_size: int) -> torch.Tensor:
        data = photos(root, num_workers=workers, batch_size=batch_size)
        loader = data.train_dataloader()
        loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
        return torch.cat([data.on_after_batch_transfer(batch, 0)[0][0] for batch in loader])

    expected = epoch(workers=0, batch_size=4)
    assert torch.equal(epoch(workers=2, batch_size=4), expected)
    assert torch.equal(epoch(workers=0, batch_size=6), expected)


def test_large_photographs_are_read_at_half_their_size_in_training_only(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1})
    for path in root.glob("*/*/*.jpg"):
        Image.open(path).resize((300, 240)).save(path)
    whole = PhotoAugment(rand_augment=None, crop_scale=(1.0, 1.0), crop_ratio=(1.25, 1.25), flip_prob=0.0)
    data = photos(root, augment=whole)
    data.setup("fit")
    read = data.photos.read
    shapes: list[tuple[int, ...]] = []

    def spy(name: str, half: Half | None = None) -> Pixels:
        pixels = read(name, half)
        shapes.append(pixels.shape)
        return pixels

    data.photos.read = spy  # type: ignore[method-assign]
    list(data.train_dataloader())
    assert set(shapes) == {(120, 150, 3)}
    shapes.clear()
    list(data.batches("val", "cpu"))
    assert set(shapes) == {(240, 300, 3)}


def test_repeats_of_an_image_are_distorted_otherwise_and_labeled_alike(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/a": 6, "train/b": 6, "val/a": 1, "val/b": 1})
    settings: dict = {"batch_size": 6, "repeats": 3, "augment": PhotoAugment(rand_augment=None, erase_prob=1.0)}
    data, with_workers = photos(root, **settings), photos(root, **settings, num_workers=2)
    labels = data.labels("train")
    seen = 0
    for batch, other in zip(data.train_dataloader(), with_workers.train_dataloader(), strict=True):
        assert torch.equal(batch.images, other.images)
        assert batch.labels.tolist() == labels[batch.indices % 12].tolist()
        erased = data.on_after_batch_transfer(batch, 0)[0][0] * 0.22 + 0.45
        for three, noisy in zip(batch.images.split(3), erased.split(3), strict=True):
            boxes = (noisy - three / 255).abs().amax(dim=1) > 0.1  # (3, H, W)
            for a, b in ((0, 1), (0, 2), (1, 2)):
                assert not torch.equal(three[a], three[b])
                assert not torch.equal(boxes[a], boxes[b])
            seen += 1
    assert seen == 4  # a third of the images in an epoch of 12


def test_persistent_workers_know_the_epoch(photo_folder: PhotoFolder) -> None:
    # A worker that lives on keeps the data set it was given: an epoch stored there would stay 0 for ever.
    data = photos(photo_folder({"train/a": 4, "train/b": 4, "val/a": 1, "val/b": 1}), num_workers=1, batch_size=8)
    loader = data.train_dataloader()
    assert loader.persistent_workers
    epochs = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        (batch,) = loader
        epochs.append(batch.images[batch.indices.argsort()])
    assert not torch.equal(epochs[0], epochs[1])


class _Watcher(LightningModule):
    """Notes the children of the process before training, and what each validation is given."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3 * 16 * 16, 2)
        self.others = {child.pid for child in psutil.Process().children()}  # e.g. a tracker that another test started
        self.early: set[int] = set()
        self.late: set[int] = set()
        self.validated: list[Tensor] = []

    def on_train_start(self) -> None:
        self.early = {child.pid for child in psutil.Process().children()}

    def training_step(self, batch: View, batch_idx: int) -> Tensor:
        (images,), labels = batch
        return F.cross_entropy(self.net(images.flatten(1)), labels)

    def validation_step(self, batch: View, batch_idx: int) -> None:
        (images,), _ = batch
        self.late |= {child.pid for child in psutil.Process().children()}
        self.validated.append(images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_workers_of_the_validation_are_made_before_the_training(photo_folder: PhotoFolder) -> None:
    # A process that has trained holds gigabytes, which a worker made then would share and make it copy. Those that are
    # made early must find nothing to do until the validation, and then give what a loader without workers gives.
    root = photo_folder({"train/a": 4, "train/b": 4, "val/a": 3, "val/b": 4})
    watcher = _Watcher()
    quick_trainer(epochs=2).fit(watcher, datamodule=photos(root, num_workers=1))
    assert watcher.late <= watcher.early
    assert len(watcher.early - watcher.others) == 2  # one reads for the training
    alone = photos(root)
    expected = [alone.on_after_batch_transfer(batch, 0)[0][0] for batch in alone.val_dataloader()]
    assert len(expected) == 2
    for found, one in zip(watcher.validated, 2 * expected, strict=True):
        assert torch.equal(found, one)


# Bad input.


def _refused(root: Path, **arguments: object) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as raised:
        photos(root, **arguments).setup("fit")
    message = str(raised.value)
    assert len(message.splitlines()) <= 5
    return message


def test_a_folder_that_is_not_there_names_the_nearest(photo_folder: PhotoFolder, tmp_path: Path) -> None:
    root = photo_folder(_THREE)
    assert f"Did you mean {root}?" in _refused(root.parent / "photo")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty has no folder" in _refused(tmp_path / "empty" / "some" / "where")
    (tmp_path / "photos.zip").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        ImageFolder(root=str(tmp_path / "photos.zip")).prepare_data()


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({".": 1}, "one folder of images for each class"),
        ({"cat": 5}, "one class only, cat"),
        ({"train/cat": 2, "train/dog": 0, "val/cat": 1}, "train/dog has no image, so that the class dog is empty"),
        ({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dogs": 1}, "lacks; it has cat, dog. Did you mean dog?"),
        ({"a": 1, "b": 1}, "split of"),
    ],
)
def test_folders_that_are_no_classes_are_refused(photo_folder: PhotoFolder, counts: dict[str, int], said: str) -> None:
    assert said in _refused(photo_folder(counts))


def _damage(root: Path) -> list[Path]:
    folder = root / "train" / "cat"
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    Image.new("RGB", (1, 1)).save(folder / "tiny.png")
    shutil.copy(folder / "000.jpg", folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-300])
    return [folder / name for name in ("cut.jpg", "empty.jpg", "text.jpg", "tiny.png")]


def test_broken_images_are_refused_by_default(photo_folder: PhotoFolder) -> None:
    root = photo_folder(_THREE)
    paths = _damage(root)
    message = _refused(root)
    assert "4 of 22 images cannot be decoded" in message
    assert "broken: skip" in message
    assert all(str(path) in message for path in paths[:3])
    listing = Path(message.split("all in ")[1])
    assert all(str(path) in listing.read_text() for path in paths)


def test_broken_images_are_skipped_counted_and_named(photo_folder: PhotoFolder, said: list[str]) -> None:
    root = photo_folder(_THREE)
    paths = _damage(root)
    data = photos(root, broken="skip")
    data.prepare_data()
    data.setup("fit")
    assert [line for line in said if "cannot be decoded" in line] == said[:1]
    assert "4 of 22 images cannot be decoded and are left out" in said[0]
    assert str(paths[0]) in said[0]
    assert len(data.labels("train")) == 6
    for batch in data.train_dataloader():
        assert len(batch.labels) == 4


def test_class_of_which_nothing_is_left_is_refused(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/cat": 5, "train/dog": 1, "val/cat": 1, "val/dog": 1})
    (root / "train" / "dog" / "000.jpg").write_bytes(b"")
    assert "has no training image of the class dog that can be decoded" in _refused(root, broken="skip")


def test_no_image_takes_the_place_of_one_that_breaks_later(photo_folder: PhotoFolder) -> None:
    # timm retries with the next index: the wrong picture under the right label, without a word.
    root = photo_folder(_THREE)
    data = photos(root)
    data.setup("fit")
    (root / "test" / "cat" / "001.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"test/cat/001\.jpg cannot be decoded any more"):
        list(data.batches("test", "cpu"))


def test_held_out_images_leave_something_to_train_on(photo_folder: PhotoFolder) -> None:
    # As many test as validate unless `test_fraction` is given, or a test folder: of 0.5, one training image was left.
    root = photo_folder({"a": 10, "b": 10})
    for fractions in ({"val_fraction": 1.2}, {"val_fraction": 0.5, "test_fraction": 0.5}, {"val_fraction": 0.5}):
        assert "leave nothing to train on; their sum must be below 1" in _refused(root, **fractions)
    assert len(photos(root, val_fraction=0.4).labels("train")) == 4
    assert len(photos(root, val_fraction=0.5, test_fraction=0.2).labels("train")) == 6
    for name in "ab":
        shutil.copytree(root / name, root / "train" / name)
        shutil.move(root / name, root / "test" / name)
    assert len(photos(root, val_fraction=0.6).labels("train")) == 8


@pytest.mark.usefixtures("names_of_any_bytes")
def test_names_with_other_scripts_and_broken_encodings(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"train/Käse": 2, "train/パン": 2, "val/Käse": 1, "val/パン": 1})
    odd = os.fsdecode(b"caf\xe9.jpg")  # Latin-1 on a file system of UTF-8
    (root / "val" / "パン" / "000.jpg").rename(root / "val" / "パン" / odd)
    data = photos(root)
    assert data.image_names("val") == ["val/Käse/000.jpg", "val/パン/caf\\xe9.jpg"]
    assert len(list(data.batches("val", "cpu"))) == 1
