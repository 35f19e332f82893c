"""Drawing training images by weight, and a few blocks at a time. Expectations follow from the weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vitlab.data import Digits, Mixup, PlacedDigits, Sampling
from vitlab.data.sampler import WINDOW, TrainSampler, in_windows
from vitlab.data.sampling import draw

LABELS = np.repeat([0, 1, 2], [60, 30, 10])


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_classes_get_their_share_of_every_epoch(balance: float) -> None:
    """A class of n images in proportion to n^(1 − balance): as they are, by the square root, equally often."""
    powers = np.array([60.0, 30.0, 10.0]) ** (1 - balance)
    expected = 100 * powers / powers.sum()
    weights = Sampling(class_balance=balance).weights_of(LABELS, [])
    for epoch in range(5):
        drawn = draw(weights, LABELS, seed=3, epoch=epoch)
        counts = np.bincount(LABELS[drawn % 100], minlength=3)
        assert np.abs(counts - expected).max() < 1
        assert len(np.unique(drawn)) == 100  # each appearance has an index of its own
        if balance == 0.0:
            assert sorted(drawn) == list(range(100))


def test_an_image_appears_its_expected_number_of_times_or_one_more() -> None:
    weights = np.random.default_rng(0).uniform(0, 4, 50)
    weights[7] = 0
    expected = 50 * weights / weights.sum()
    total = np.zeros(50)
    for epoch in range(400):
        counts = np.bincount(draw(weights, np.zeros(50, np.int64), seed=0, epoch=epoch) % 50, minlength=50)
        assert (counts >= np.floor(expected)).all()
        assert (counts <= np.ceil(expected)).all()
        total += counts
    np.testing.assert_allclose(total / 400, expected, atol=0.12)  # of standard deviations of at most 0.025
    assert total[7] == 0


def test_epochs_differ_and_repeat() -> None:
    weights = Sampling(class_balance=1.0).weights_of(LABELS, [])
    first, again, second = (draw(weights, LABELS, seed=0, epoch=epoch) for epoch in (0, 0, 1))
    assert (first == again).all()
    assert set(first) != set(second)


def test_a_table_weights_the_images_that_it_names(tmp_path: Path) -> None:
    table = tmp_path / "weights.csv"
    table.write_text("file,weight\nb.png,0\na.png,2.5\nelsewhere.png,1\n")
    sampling = Sampling(weights=str(table))
    assert sampling.weights_of(np.array([0, 1]), ["a.png", "b.png"]).tolist() == [2.5, 0.0]
    with pytest.raises(ValueError, match=r"to 1 of 2 training images, like c.png"):
        sampling.weights_of(np.array([0, 1]), ["a.png", "c.png"])
    table.write_text("file,weight\na.png,0\n")
    with pytest.raises(ValueError, match="every training image the weight 0"):
        sampling.weights_of(np.array([0]), ["a.png"])
    table.write_text("name,weight\na.png,0\n")
    with pytest.raises(ValueError, match="give file and weight"):
        sampling.weights_of(np.array([0]), ["a.png"])
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Sampling(weights=str(tmp_path / "none.csv")).weights_of(np.array([0]), ["a.png"])
    with pytest.raises(ValueError, match="class_balance is 2"):
        Sampling(class_balance=2)


def test_blocks_come_in_random_order_a_window_at_a_time() -> None:
    blocks = np.repeat(np.arange(5 * WINDOW), 10)
    images = np.random.default_rng(0).permutation(len(blocks))
    first, second = (in_windows(images, blocks, seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(images)
    windows = blocks[first].reshape(5, -1)
    assert all(len(np.unique(window)) == WINDOW for window in windows)
    assert len(np.unique(windows[0][:20])) > WINDOW / 2  # mixed within the window
    assert set(windows[0]) != set(blocks[second].reshape(5, -1)[0])


def test_processes_share_a_weighted_epoch_as_one_has_it() -> None:
    weights = Sampling(class_balance=1.0).weights_of(LABELS, [])
    shared: dict = {"weights": weights, "labels": LABELS, "blocks": np.arange(100) // 4}
    whole = [key.image for key in TrainSampler(100, 0, batch_size=20, **shared)]
    parts = [TrainSampler(100, 0, rank, 2, batch_size=10, **shared) for rank in range(2)]
    assert sorted(key.image for part in parts for key in part) == sorted(whole)


@pytest.mark.parametrize("kind", [Digits, PlacedDigits])
def test_repeats_of_an_image_are_augmented_differently(kind: type) -> None:
    """One image in a thousand times the weight of the others."""
    data = kind(batch_size=64, sampling=Sampling(class_balance=1.0), train_images=11)
    data.train_images = None
    weights = np.ones(len(data.dataset("train")))
    weights[5] = 1000 * len(weights)
    data.sampling = type("Fixed", (), {"weights_of": lambda *_: weights})()
    (views, labels), names = data.training_batch(0, 0, torch.device("cpu"))
    assert len(set(names)) < 5
    assert (labels == labels.mode().values).sum() > 60
    if kind is PlacedDigits:
        assert len({view.numpy().tobytes() for view in views[0]}) > 30


def test_sampling_is_refused_with_repeats(tmp_path: Path) -> None:
    from vitlab.data import ImageFolder

    with pytest.raises(ValueError, match="sampling and repeats are both on"):
        ImageFolder(root=str(tmp_path), repeats=3, sampling=Sampling())


def test_another_table_is_not_continued_in_the_middle_of_an_epoch() -> None:
    data = Digits(batch_size=64, mixup=Mixup())
    state = data.train_dataloader().state_dict()
    data.sampling = Sampling(class_balance=1.0)
    loader = data.train_dataloader()
    loader.sampler.start = 64
    with pytest.raises(ValueError, match="weights was None, is"):
        loader.load_state_dict(state)
