"""MSN's few labels: the optimum of the released problem, and the published numbers of images."""

import pytest
import torch

from vitlab.evaluation.few_labels import (
    FewLabels,
    draw_percent,
    draw_subsets,
    fit_logistic,
    listed_images,
    measure_few_labels,
    preprocess,
)


def clusters(n: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return 5 + 3 * torch.eye(8)[labels] + torch.randn(n, 8, generator=generator), labels


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strength", [0.0025, 0.075])
def test_the_weights_are_the_optimum_of_cyanures_problem(classes: int, strength: float) -> None:
    """logistic_eval.py:175-187: mean loss plus λ/n · |W|²/2, no intercept. It is convex: no gradient is the optimum."""
    features, labels = clusters(30, classes, 1)
    x = preprocess(features).double()
    weight = fit_logistic(x, labels, strength).requires_grad_()
    loss = torch.nn.functional.cross_entropy(x @ weight.T, labels) + strength / len(x) * weight.square().sum() / 2
    loss.backward()
    assert weight.shape == (classes, 8)
    assert weight.grad is not None
    assert float(weight.grad.abs().max()) < 1e-6
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
    subsets = draw_subsets(labels)
    assert [(name, len(draws), len(draws[0])) for name, draws in subsets.items()] == [
        ("1 label per class", 3, 10),
        ("2 labels per class", 3, 20),
        ("5 labels per class", 3, 50),
        ("1 % of the labels", 1, 128),
    ]
    assert sorted(labels[draw_percent(labels)].bincount().tolist()) == [12, 12, *[13] * 8]
    assert len(set(draw_percent(labels).tolist())) == 128
    assert labels[draw_percent(labels[:50])].bincount().tolist() == [1] * 10  # at least one


def test_separated_classes_are_found_with_the_papers_strengths() -> None:
    train, test = clusters(600, 4, 1), clusters(80, 4, 2)
    results = measure_few_labels(train, test, {**draw_subsets(train[1]), "more": [torch.arange(200)]})
    assert [result.strength for result in results] == [0.0025, 0.0025, 0.0025, 0.075, 0.075]
    assert [len(result.draws) for result in results] == [3, 3, 3, 1, 1]
    assert results[-1].draws[0] > 0.85
    assert str(FewLabels("x", 1, 0.075, [0.5, 0.6])) == f"{'x':<18}  55.0 % ± 5.0 over 2 draws   λ = 0.075"


def test_a_class_that_is_not_labeled_is_never_predicted() -> None:
    train, test = clusters(600, 4, 1), clusters(80, 4, 2)
    chosen = (train[1] >= 2).nonzero().flatten()  # the last two of four classes
    (result,) = measure_few_labels(train, test, {"two": [chosen]})
    assert 0.4 < result.draws[0] <= 0.5


def test_listed_images_are_found_by_their_file_names() -> None:
    names = ["n01/n01_3.JPEG", "n01/n01_7.JPEG", "n02/n02_1.JPEG"]
    assert listed_images(names, ["n02_1.JPEG", "n01_3.JPEG"], "1percent.txt").tolist() == [2, 0]
    assert listed_images([*names, "n03/n01_3.JPEG"], ["n01/n01_3.JPEG"], "1percent.txt").tolist() == [0]
    for listed, of in ((["n09_1.JPEG", "n09_2.JPEG"], names), (["0.jpg", "1.jpg"], ["a/0.jpg", "b/0.jpg"])):
        with pytest.raises(ValueError, match=rf"^1percent\.txt lists {listed[0]} and 1 more"):
            listed_images(of, listed, "1percent.txt")
