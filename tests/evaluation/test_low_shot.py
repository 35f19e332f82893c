"""A few labels, where it is known what they are worth."""

import pytest
import torch
from scipy import stats

from vitlab.evaluation.low_shot import STRENGTH, LowShot, accuracy, draw_images, fit_logistic, measure_low_shot


def clusters(n: int, spread: float, seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return 5 + 3 * torch.eye(8)[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_one_image_a_class_is_enough_where_a_class_is_a_point() -> None:
    """Although all features have a large mean in common."""
    (result,) = measure_low_shot(clusters(40, 0.01, 1), clusters(80, 0.01, 2), shots=(1,))
    assert (result.name, result.value, result.low, result.high) == ("1 label per class", 1.0, 1.0, 1.0)


def test_more_images_are_worth_more_and_features_without_classes_nothing() -> None:
    one, two, five = measure_low_shot(clusters(200, 1.5, 1), clusters(400, 1.5, 2))
    assert one.value < two.value < five.value
    (features, labels), test = clusters(200, 1.5, 1), clusters(400, 1.5, 2)
    for result in measure_low_shot((torch.randn_like(features), labels), (torch.randn_like(test[0]), test[1])):
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
    found = [result.name for result in measure_low_shot((features, labels), clusters(40, 1.0, 2))]
    assert found == ["1 label per class", "2 labels per class"]


def test_a_line_says_what_is_counted() -> None:
    line = str(LowShot.of("1 label per class", 10, [0.5, 0.6]))
    assert line.startswith("1 label per class   55.0 % [")
    assert line.endswith("   2 draws   λ = 0.075")


def test_the_interval_is_students() -> None:
    draws = [0.5, 0.6, 0.4, 0.55, 0.45]
    result = LowShot.of("1 label per class", 10, draws)
    interval = stats.t.interval(0.95, df=4, loc=0.5, scale=stats.sem(draws))
    assert (result.low, result.high) == pytest.approx(interval)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_weights_are_the_optimum_of_the_problem(classes: int) -> None:
    """Mean loss plus λ/n · |W|²/2. It is convex: no gradient is the optimum."""
    features, labels = clusters(30, 1.0, 1, classes)
    x = features.double()
    model = fit_logistic(x, labels)
    weight, bias = torch.from_numpy(model.coef_), torch.from_numpy(model.intercept_)
    if classes == 2:  # one vector w = W_1 - W_0
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight, bias = weight.requires_grad_(), bias.requires_grad_()
    outputs = torch.nn.functional.linear(x, weight, bias)
    loss = torch.nn.functional.cross_entropy(outputs, labels) + STRENGTH / len(x) * weight.square().sum() / 2
    loss.backward()
    assert weight.shape == (classes, 8)
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-5
    assert float(bias.grad.abs().max()) < 1e-5
    start = torch.nn.functional.cross_entropy(torch.zeros(30, classes).double(), labels)
    assert loss.item() < 0.7 * start.item()


def test_a_class_that_is_not_labeled_is_never_predicted() -> None:
    train, test = clusters(600, 1.0, 1), clusters(80, 1.0, 2)
    chosen = (train[1] >= 2).nonzero().flatten()  # the last two of four classes
    assert 0.4 < accuracy(train, test, chosen) <= 0.5
