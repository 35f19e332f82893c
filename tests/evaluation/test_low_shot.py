"""A few labels, where it is known what they are worth; MSN's: the optimum of the released problem, and its numbers."""

import pytest
import torch
from scipy import stats

from vitlab.evaluation.probe import (
    LowShot,
    draw_images,
    draw_percent,
    fit_logistic,
    listed_images,
    measure_few_labels,
    measure_low_shot,
    preprocess,
)
from vitlab.experiment.protocols import Protocol

MSN = Protocol.read("msn", {}).few_labels
assert MSN is not None


def clusters(n: int, spread: float, seed: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return 5 + 3 * torch.eye(8)[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_one_image_a_class_is_enough_where_a_class_is_a_point() -> None:
    """Although all features have a large mean in common."""
    (result,) = measure_low_shot(clusters(40, 0.01, 1), clusters(80, 0.01, 2), shots=(1,))
    assert (result.name, result.value, result.low, result.high) == ("1 label per class", 1.0, 1.0, 1.0)


def test_more_images_are_worth_more_and_features_without_classes_nothing() -> None:
    one, two, five, ten = measure_low_shot(clusters(200, 1.5, 1), clusters(400, 1.5, 2))
    assert one.value < two.value < five.value < ten.value
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


def test_the_interval_is_students() -> None:
    draws = [0.5, 0.6, 0.4, 0.55, 0.45]
    result = LowShot.of("1 label per class", 10, 0.075, draws)
    interval = stats.t.interval(0.95, df=4, loc=0.5, scale=stats.sem(draws))
    assert (result.low, result.high) == pytest.approx(interval)


# MSN's evaluation.


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strength", [0.0025, 0.075])
@pytest.mark.parametrize("intercept", [False, True], ids=["MSN's", "with an intercept"])
def test_the_weights_are_the_optimum_of_the_problem(classes: int, strength: float, intercept: bool) -> None:
    """logistic_eval.py:175-187: mean loss plus λ/n · |W|²/2. It is convex: no gradient is the optimum."""
    features, labels = clusters(30, 1.0, 1, classes)
    x = preprocess(features).double()
    weight, bias = (x.clone().requires_grad_() for x in fit_logistic(x, labels, strength, intercept))
    outputs = torch.nn.functional.linear(x, weight, bias)
    loss = torch.nn.functional.cross_entropy(outputs, labels) + strength / len(x) * weight.square().sum() / 2
    loss.backward()
    assert weight.shape == (classes, 8)
    assert weight.grad is not None
    assert bias.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6
    assert float(bias.grad.abs().max()) < 1e-6 if intercept else not bias.any()
    start = torch.nn.functional.cross_entropy(torch.zeros(30, classes).double(), labels)
    assert loss.item() < 0.7 * start.item()


def test_each_row_is_centered_and_scaled_alone() -> None:
    """cyanure's preprocess(columns=False, centering=True, normalize=True)."""
    features = torch.tensor([[1.0, 2.0, 3.0], [10.0, 10.0, 40.0]])
    half = 0.5**0.5
    torch.testing.assert_close(
        preprocess(features), torch.tensor([[-half, 0.0, half], [-1.0, -1.0, 2.0]]) / torch.tensor([[1.0], [6**0.5]])
    )


def test_the_subsets_are_the_published_ones_in_number() -> None:
    """1, 2 and 5 images per class three times, and 1 % once: 12 or 13 images per class of ImageNet."""
    labels = torch.arange(12_800) % 10
    subsets = MSN.drawn(labels)
    assert [(name, len(draws), len(draws[0])) for name, draws in subsets.items()] == [
        ("1 label per class", 3, 10),
        ("2 labels per class", 3, 20),
        ("5 labels per class", 3, 50),
        ("1 % of the labels", 1, 128),
    ]
    assert sorted(labels[draw_percent(labels, 1.0)].bincount().tolist()) == [12, 12, *[13] * 8]
    assert len(set(draw_percent(labels, 1.0).tolist())) == 128
    assert labels[draw_percent(labels[:50], 1.0)].bincount().tolist() == [1] * 10  # at least one


def test_separated_classes_are_found_with_the_papers_strengths() -> None:
    train, test = clusters(600, 1.0, 1), clusters(80, 1.0, 2)
    results = measure_few_labels(MSN, train, test, {**MSN.drawn(train[1]), "more": [torch.arange(200)]})
    assert [result.strength for result in results] == [0.0025, 0.0025, 0.0025, 0.075, 0.075]
    assert [len(result.draws) for result in results] == [3, 3, 3, 1, 1]
    assert results[-1].draws[0] > 0.85


def test_a_class_that_is_not_labeled_is_never_predicted() -> None:
    train, test = clusters(600, 1.0, 1), clusters(80, 1.0, 2)
    chosen = (train[1] >= 2).nonzero().flatten()  # the last two of four classes
    (result,) = measure_few_labels(MSN, train, test, {"two": [chosen]})
    assert 0.4 < result.draws[0] <= 0.5


def test_listed_images_are_found_by_their_file_names() -> None:
    names = ["n01/n01_3.JPEG", "n01/n01_7.JPEG", "n02/n02_1.JPEG"]
    assert listed_images(names, ["n02_1.JPEG", "n01_3.JPEG"], "1percent.txt").tolist() == [2, 0]
    assert listed_images([*names, "n03/n01_3.JPEG"], ["n01/n01_3.JPEG"], "1percent.txt").tolist() == [0]
    for listed, of in ((["n09_1.JPEG", "n09_2.JPEG"], names), (["0.jpg", "1.jpg"], ["a/0.jpg", "b/0.jpg"])):
        with pytest.raises(ValueError, match=rf"^1percent\.txt: {listed[0]} is not a training image"):
            listed_images(of, listed, "1percent.txt")
