"""Folds: every labelled image tests once, classes stay balanced, groups whole, and what cannot be parted is refused."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.conftest import PhotoFolder, photos
from tests.data.test_digits import cut_out
from vitlab.data import CIFAR10, Digits, Folds, ImageDataModule, ImageFolder, LabelTable, PlacedDigits, Shapes
from vitlab.data.folds import class_balanced_order, fold_numbers, stratified_split
from vitlab.data.in_memory import TensorImages

Make = Callable[[Folds], ImageDataModule]


def _all(make: Make, count: int, groups: str | None = None) -> list[ImageDataModule]:
    return [make(Folds(count=count, test=test, groups=groups)) for test in range(1, count + 1)]


def _folder(root: Path) -> Make:
    return lambda folds: photos(root, folds=folds)


def _parts_all(modules: Sequence[ImageDataModule], total: int) -> None:
    """Assert that every image tests once, and that the splits of a module are all images and share none."""
    tested = [name for module in modules for name in module.image_names("test")]
    assert len(tested) == len(set(tested)) == total
    for module in modules:
        names = [name for split in ("train", "val", "test") for name in module.image_names(split)]
        assert sorted(names) == sorted(tested)
        assert not module.tests_on_validation


def test_digits() -> None:
    modules = _all(lambda folds: Digits(folds=folds, split_seed=3), 5)
    _parts_all(modules, 1797)
    counts = np.stack([np.bincount(module.labels("test")) for module in modules])  # (folds, classes)
    assert np.ptp(counts, axis=0).max() == 1
    assert np.ptp(counts.sum(axis=1)) == 1
    whole = Digits()
    known = dict(zip(whole.image_names("test"), whole.raw_images("test", range(599)), strict=True))
    names = modules[0].image_names("test")
    shared = next(index for index, name in enumerate(names) if name in known)
    assert np.array_equal(modules[0].raw_images("test", [shared])[0], known[names[shared]])


def test_cifars_published_test_images_are_in_no_part(cifar_root: Path) -> None:
    modules = _all(lambda folds: CIFAR10(root=str(cifar_root), folds=folds), 4)
    _parts_all(modules, 200)
    assert all(name.startswith("train/") for module in modules for name in module.image_names("test"))
    assert [np.bincount(module.labels("test")).tolist() for module in modules] == [[5] * 10] * 4
    source = np.load(cifar_root / "cifar10.npz")
    place = int(modules[2].image_names("test")[7].removeprefix("train/"))
    assert np.array_equal(modules[2].raw_images("test", [7])[0], source["x_train"][place])


@pytest.mark.parametrize(
    ("layout", "total"),
    [
        ({"cat": 20, "dog": 31}, 51),
        ({"train/cat": 12, "train/dog": 12, "val/cat": 5, "val/dog": 5}, 34),
        ({"train/cat": 12, "train/dog": 12, "test/cat": 5, "test/dog": 5}, 24),
    ],
    ids=["one folder", "training and validation", "a test folder stays out"],
)
def test_a_folder(layout: dict[str, int], total: int, photo_folder: PhotoFolder) -> None:
    modules = _all(_folder(photo_folder(layout)), 3)
    _parts_all(modules, total)
    assert not any(name.startswith("test/") for module in modules for name in module.image_names("test"))
    counts = np.stack([np.bincount(module.labels("test")) for module in modules])
    assert np.ptp(counts, axis=0).max() <= 1


def test_a_table_of_quantities_is_parted_regardless_of_them(tmp_path: Path, photo_folder: PhotoFolder) -> None:
    root = photo_folder({"all": 20})
    rows = "".join(f"all/{i:03d}.jpg,{i / 7}\n" for i in range(20))
    (tmp_path / "table.csv").write_text(f"file,place\n{rows}")

    def make(folds: Folds) -> ImageDataModule:
        source = LabelTable(str(tmp_path / "table.csv"), root=str(root))
        return ImageFolder(source=source, image_size=16, batch_size=4, num_workers=0, folds=folds)

    _parts_all(_all(make, 5), 20)


def test_the_images_of_a_group_are_in_one_part_and_in_one_split(photo_folder: PhotoFolder) -> None:
    modules = _all(_folder(photo_folder({"cat": 100, "dog": 100})), 5, groups=r"(\w+/\d\d)\d\.jpg$")
    _parts_all(modules, 200)
    for module in modules:
        groups = [{name[:-5] for name in module.image_names(split)} for split in ("train", "val", "test")]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 20
        assert all(len(each) > 0 for each in groups)
        assert np.bincount(module.labels("test")).tolist() == [20, 20]


def _by_ten(name: str) -> str:
    return name.removesuffix(".jpg")[:-1]


@pytest.mark.parametrize("kind", ["folder", "table", "digits", "CIFAR", "Shapes", "folds"])
def test_no_group_is_on_two_sides_of_a_split(
    kind: str, photo_folder: PhotoFolder, cifar_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every ten of images is a patient; probes that hold images out of the training images keep them whole too."""
    tens = r"^(.*)\d(?:\.jpg)?$"
    settings: dict = {"val_fraction": 0.2, "groups": tens}
    if kind in ("folder", "table", "folds"):
        root = photo_folder({"cat": 100, "dog": 100})
        settings |= {"root": str(root), "image_size": 16, "num_workers": 0, "batch_size": 4}
        if kind == "table":
            files = sorted(str(path.relative_to(root)) for path in root.glob("*/*.jpg"))
            rows = "".join(f"{file},{file[:3]},{_by_ten(file)}\n" for file in files)
            (root / "t.csv").write_text(f"file,class,patient\n{rows}")
            settings |= {"table": str(root / "t.csv"), "groups": None}
        data: ImageDataModule = ImageFolder(**settings, folds=Folds(count=5) if kind == "folds" else None)
    else:
        data = {"digits": Digits, "CIFAR": lambda **s: CIFAR10(root=str(cifar_root), **s), "Shapes": Shapes}[kind](
            **settings
        )
    with caplog.at_level("INFO", logger="vitlab"):
        groups = {split: {_by_ten(name) for name in data.image_names(split)} for split in ("train", "val", "test")}
    assert not groups["train"] & groups["val"]
    assert not (groups["train"] | groups["val"]) & groups["test"]
    share = len(data.image_names("val")) / sum(len(data.image_names(split)) for split in ("train", "val"))
    assert share == pytest.approx(0.25 if kind in ("folder", "table") else 0.2, abs=0.03)  # of those that do not test
    counts = ", ".join(f"{len(own)} {split}" for split, own in groups.items())
    assert f"Groups by {data.grouping}: {counts}; none is in two splits." in caplog.messages
    chosen = data.probe_images
    assert chosen is not None
    names = data.image_names("train")
    held, kept = ({_by_ten(names[i]) for i in range(len(names)) if (i in chosen) is side} for side in (True, False))
    assert held
    assert not held & kept


def test_groups_that_the_data_set_itself_puts_on_two_sides_are_named(
    photo_folder: PhotoFolder, caplog: pytest.LogCaptureFixture
) -> None:
    root = photo_folder({f"{split}/{name}": 10 for split in ("train", "val") for name in ("cat", "dog")})
    data = ImageFolder(root=str(root), groups=r"/(\w+/\d+)", num_workers=0)
    with caplog.at_level("INFO", logger="vitlab"):
        assert len(data.labels("train")) == 20
    said = (
        "20 train, 20 val, 20 test; 20 are in two splits, which inflates accuracy: cat/000, cat/001, cat/002 and more."
    )
    assert f"Groups by {data.grouping}: {said}" in caplog.messages
    with pytest.raises(ValueError, match=r"data.init_args.groups: 'cat'. Expected a regular expression"):
        ImageFolder(root=str(root), groups="cat")


@pytest.mark.parametrize(("val_fraction", "validate"), [(0.25, 4), (0.5, 8), (0.75, 12), (0.9, 14)])
def test_whole_groups_validate_as_many_images_as_asked(val_fraction: float, validate: int) -> None:
    # 20 groups of equal size, of which 16 do not test; 14 is the nearest to 0.9 that parts of whole groups can be.
    names = [f"{i // 5}/{i}" for i in range(100)]
    data = Digits(folds=Folds(count=5, groups=r"^(\d+)/"), val_fraction=val_fraction)
    parts = data.parted(TensorImages(torch.zeros(100, 1, 8, 8).byte(), np.zeros(100, np.int64), names))
    assert [len(parts[split]) for split in ("train", "val", "test")] == [80 - 5 * validate, 5 * validate, 20]


def test_a_class_of_one_group_is_never_held_out() -> None:
    labels, groups = np.repeat([0, 1, 2, 3], [40, 4, 4, 2]), np.array([f"{i // 4}" for i in range(48)] + ["b", "c"])
    for seed in range(20):
        kept, held_out = stratified_split(labels, 0.2, seed, groups)
        assert {*labels[kept]} == {0, 1, 2, 3}
        assert len(held_out)
        assert not {*groups[kept]} & {*groups[held_out]}


def test_another_split_seed_gives_other_parts_and_the_same_one_the_same() -> None:
    parts = [Digits(folds=Folds(count=5), split_seed=seed).image_names("test") for seed in (1, 1, 2)]
    assert parts[0] == parts[1] != parts[2]
    classes = np.arange(12) % 3
    # Written down on 2026-11-25: the draws are integer hashes, so that no library or machine changes a partition.
    assert fold_numbers(classes, 4, seed=1).tolist() == [2, 3, 2, 1, 1, 1, 0, 0, 0, 3, 2, 3]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: Folds(count=5, test=6), r"folds\.test is 6; give a part from 1 to 5"),
        (lambda root: Shapes(folds=Folds(count=5)), "folds: Shapes has fixed test images"),
        (lambda root: PlacedDigits(folds=Folds(count=5)), "folds: PlacedDigits has fixed test images"),
        (lambda root: _folder(root)(Folds(count=60)).labels("test"), "60 parts of 22 images: give fewer folds"),
        (lambda root: _folder(root)(Folds(count=3, groups="(cat|dog)/")).labels("test"), "3 parts of 2 groups"),
        (
            lambda root: _folder(root)(Folds(count=2, groups="(cat|dog)/")).labels("test"),
            r"puts all images into one group, (cat|dog); it takes two or more",
        ),
        (
            lambda root: [each.labels("test") for each in _all(_folder(root), 2, r"(cat|dog/\d+)")],
            r"fold [12] of 2 \(split_seed 0\) has no training image of the class cat",
        ),
        (lambda root: _folder(root)(Folds(count=2, groups="bird(.)")).labels("test"), "does not match the image cat/"),
        (
            lambda root: ImageFolder(root=str(root), folds=Folds(count=2), test_fraction=0.2),
            "test_fraction and folds both choose test images",
        ),
    ],
)
def test_what_cannot_be_parted_is_refused(
    make: Callable[[Path], object], message: str, photo_folder: PhotoFolder
) -> None:
    with pytest.raises(ValueError, match=message):
        make(photo_folder({"cat": 11, "dog": 11}))


# `train_images`: a nested, class-balanced subset of the training images


MakeFew = Callable[..., ImageDataModule]


@pytest.fixture(params=["Digits", "PlacedDigits", "CIFAR10", "ImageFolder"])
def make(request: pytest.FixtureRequest, cifar_root: Path, photo_folder: PhotoFolder) -> MakeFew:
    """Return a function that makes the data set from its settings."""
    if request.param == "ImageFolder":
        root = str(photo_folder({"train/cat": 30, "train/dog": 20, "val/cat": 4, "val/dog": 4}))
        return lambda **settings: ImageFolder(root=root, num_workers=0, image_size=16, **settings)
    if request.param == "CIFAR10":
        return lambda **settings: CIFAR10(root=str(cifar_root), **settings)
    return {"Digits": Digits, "PlacedDigits": PlacedDigits}[request.param]


def test_it_is_nested_and_balanced_and_leaves_the_other_splits_alone(make: MakeFew) -> None:
    few = 20
    whole, more, less = make(), make(train_images=40), make(train_images=few)
    names = [set(data.image_names("train")) for data in (whole, more, less)]
    assert names[0] > names[1] > names[2]
    assert [len(names[1]), len(names[2])] == [more.train_images, few]
    present = len(np.unique(whole.labels("train")))
    counts = np.bincount(less.labels("train"))
    assert counts[counts > 0].tolist() == [few // present] * present
    place = {name: number for number, name in enumerate(whole.image_names("train"))}
    chosen = [place[name] for name in less.image_names("train")]
    assert chosen == sorted(chosen)
    assert np.array_equal(less.labels("train"), whole.labels("train")[chosen])
    for ours, theirs in zip(less.raw_images("train", range(few)), whole.raw_images("train", chosen), strict=True):
        assert np.array_equal(ours, theirs)
    before, after = (data.facts()["splits"] for data in (whole, less))
    assert (before["val"], before["test"]) == (after["val"], after["test"])
    assert before["train"]["digest"] != after["train"]["digest"]


def test_it_is_drawn_by_its_own_seed_alone(make: MakeFew) -> None:
    names = make(train_images=12).image_names("train")
    assert make(train_images=12, seed=5, order_seed=3, augment_seed=4).image_names("train") == names
    assert make(train_images=12, train_images_seed=1).image_names("train") != names


def test_any_number_has_equally_many_of_each_class_until_a_class_has_no_more() -> None:
    labels = np.repeat([3, 0, 7], [2, 5, 9])
    order = class_balanced_order(labels, seed=4)
    assert sorted(order) == list(range(16))
    for number in range(1, 17):
        counts = np.bincount(labels[order[:number]], minlength=8)[[3, 0, 7]]
        level = counts.max()
        assert (counts >= np.minimum(level - 1, [2, 5, 9])).all()
    assert {tuple(labels[class_balanced_order(labels, seed)[:3]]) for seed in range(30)} == {
        (a, b, c) for a in (0, 3, 7) for b in (0, 3, 7) for c in (0, 3, 7) if len({a, b, c}) == 3
    }


def test_training_images_of_few_placed_digits_are_whole_digits() -> None:
    # The places from which they are moved belong to the digits, not to their places in the subset.
    few, digits = PlacedDigits(train_images=32, batch_size=32), Digits(train_images=32)
    ((images,), _), names = few.training_batch(3, 0, torch.device("cpu"))
    pixels = (images * few.std[0] + few.mean[0]).mul(255).round().numpy()
    for image, name in zip(pixels[:, 0], names, strict=True):
        (digit,) = digits.raw_images("train", [digits.image_names("train").index(name)])
        assert np.array_equal(cut_out(image), cut_out(digit[..., 0]))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (9, "data.init_args.train_images is 9; give 10 (one image of each class) to 1078 (all training images), or"),
        (1079, "data.init_args.train_images is 1079; give 10 (one image of each class) to 1078"),
    ],
)
def test_an_impossible_number_is_refused(number: int, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Digits(train_images=number).dataset("train")
