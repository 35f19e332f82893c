"""`train_images`: a nested, class-balanced subset of the training images, and nothing else."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.conftest import PhotoFolder
from tests.data.test_placed_digits import cut_out
from vitlab.data import CIFAR10, Digits, ImageDataModule, ImageFolder, PlacedDigits
from vitlab.data.folds import class_balanced_order

Make = Callable[..., ImageDataModule]


@pytest.fixture(params=["Digits", "PlacedDigits", "CIFAR10", "ImageFolder"])
def make(request: pytest.FixtureRequest, cifar_root: Path, photo_folder: PhotoFolder) -> Make:
    """Return a function that makes the data set from its settings."""
    if request.param == "ImageFolder":
        root = str(photo_folder({"train/cat": 30, "train/dog": 20, "val/cat": 4, "val/dog": 4}))
        return lambda **settings: ImageFolder(root=root, num_workers=0, image_size=16, **settings)
    if request.param == "CIFAR10":
        return lambda **settings: CIFAR10(root=str(cifar_root), **settings)
    return {"Digits": Digits, "PlacedDigits": PlacedDigits}[request.param]


def test_it_is_nested_and_balanced_and_leaves_the_other_splits_alone(make: Make) -> None:
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


def test_it_is_drawn_by_its_own_seed_alone(make: Make) -> None:
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
