"""The embedded data set: its splits and what a batch looks like."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from vitlab.data import BatchAugment, Digits, PlacedDigits, Shapes
from vitlab.data.dataset import Split
from vitlab.data.in_memory import InMemoryDataModule

_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def test_splits_are_a_partition_with_a_third_to_test() -> None:
    data = Digits()
    names = [name for split in _SPLITS for name in data.image_names(split)]
    assert len(names) == len(set(names)) == 1797
    assert len(data.labels("test")) == pytest.approx(1797 / 3, abs=5)  # a third of each class, rounded
    assert len(data.labels("val")) == pytest.approx(0.1 * 1198, abs=5)


def test_splits_are_stratified() -> None:
    data = Digits(val_fraction=0.2)
    counts = np.bincount(load_digits().target)
    for split, share in (("test", 1 / 3), ("val", 0.2 * 2 / 3)):
        assert np.abs(np.bincount(data.labels(split)) - share * counts).max() <= 1


def test_names_labels_and_pixels_belong_together() -> None:
    source = load_digits()
    data = Digits()
    for split in _SPLITS:
        places = [int(name.split("/")[1]) for name in data.image_names(split)]
        assert np.array_equal(data.labels(split), source.target[places])
        (image,) = data.raw_images(split, [3])
        assert image.shape == (8, 8, 1)
        assert image.dtype == np.uint8
        assert np.array_equal(np.rint(image[..., 0] * (16 / 255)), source.images[places[3]])


@pytest.mark.parametrize("kind", [Digits, PlacedDigits, Shapes])
def test_default_statistics_are_those_of_the_images(kind: type[InMemoryDataModule]) -> None:
    data = kind()
    pixels = np.concatenate([data.raw_images(split, range(len(data.labels(split)))) for split in _SPLITS]) / 255
    assert data.mean == pytest.approx(pixels.mean((0, 1, 2)), abs=0.005)
    assert data.std == pytest.approx(pixels.std((0, 1, 2)), abs=0.005)


def test_by_default_a_quarter_of_the_training_images_moves() -> None:
    data = Digits(batch_size=1000)
    batch = next(iter(data.train_dataloader()))
    (images,), labels = data.on_after_batch_transfer(batch, 0)
    (still,), _ = data.on_after_batch_transfer(batch._replace(epoch=None), 0)
    moved = (images != still).flatten(1).any(1).float().mean().item()
    assert moved == pytest.approx(0.25 * 8 / 9, abs=0.04)  # of 9 places, one is the old one
    assert labels.dtype == torch.int64


def test_training_batch_does_not_depend_on_its_size() -> None:
    # The k-th image of an epoch is the same picture, distorted the same, in batches of 16 or of 64.
    def first_images(batch_size: int) -> torch.Tensor:
        data = Digits(batch_size=batch_size, augment=BatchAugment(shift=2, flip_prob=0.5, erase_prob=0.5))
        loader = iter(data.train_dataloader())
        views = [data.on_after_batch_transfer(next(loader), 0)[0][0] for _ in range(64 // batch_size)]
        return torch.cat(views)

    torch.testing.assert_close(first_images(16), first_images(64), rtol=0, atol=0)


def test_workers_that_have_nothing_to_do_are_refused() -> None:
    with pytest.raises(ValueError, match="hold_on_device: false"):
        Digits(num_workers=2)
