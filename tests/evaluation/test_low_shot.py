"""A few labels, where it is known what they are worth."""

import pytest
import torch
from scipy import stats

from vitlab.evaluation.low_shot import LowShot, draw_images, measure_low_shot


def clusters(n: int, spread: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    return 5 + 3 * torch.eye(8)[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_one_image_a_class_is_enough_where_a_class_is_a_point() -> None:
    """Although all features have a large mean in common."""
    (result,) = measure_low_shot(clusters(40, 0.01, 1), clusters(80, 0.01, 2), 4, shots=(1,))
    assert (result.images_per_class, result.value, result.low, result.high) == (1, 1.0, 1.0, 1.0)


def test_more_images_are_worth_more_and_features_without_classes_nothing() -> None:
    one, two, five = measure_low_shot(clusters(200, 1.5, 1), clusters(400, 1.5, 2), 4)
    assert one.value < two.value < five.value
    (features, labels), test = clusters(200, 1.5, 1), clusters(400, 1.5, 2)
    for result in measure_low_shot((torch.randn_like(features), labels), (torch.randn_like(test[0]), test[1]), 4):
        assert result.low < 0.27
        assert result.high > 0.23


def test_each_draw_labels_as_many_images_of_each_class() -> None:
    labels = torch.tensor([0] * 30 + [1] * 8 + [2] * 100)
    chosen = draw_images(labels, 5, draw=0)
    assert labels[chosen].bincount().tolist() == [5, 5, 5]
    assert len(set(chosen.tolist())) == 15
    assert torch.equal(chosen, draw_images(labels, 5, draw=0))
    assert not torch.equal(chosen, draw_images(labels, 5, draw=1))


def test_more_images_than_a_class_has_are_not_asked_for() -> None:
    features, labels = clusters(12, 1.0, 1)  # three of each class
    assert [r.images_per_class for r in measure_low_shot((features, labels), clusters(40, 1.0, 2), 4)] == [1, 2]


def test_a_line_says_what_is_counted() -> None:
    assert str(LowShot.of(1, [0.5, 0.6])).startswith("1 label per class   55.0 % [")
    assert str(LowShot.of(5, [0.5, 0.6])).startswith("5 labels per class  55.0 % [")


def test_the_interval_is_students() -> None:
    draws = [0.5, 0.6, 0.4, 0.55, 0.45]
    result = LowShot.of(1, draws)
    interval = stats.t.interval(0.95, df=4, loc=0.5, scale=stats.sem(draws))
    assert (result.low, result.high) == pytest.approx(interval)
