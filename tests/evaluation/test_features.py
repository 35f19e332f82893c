"""Features in order and once; the weighted neighbors against DINO's formula written out."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from vitlab.evaluation.classifiers import classify_pixels, fit_linear_probe, predict_weighted, weighted_votes
from vitlab.evaluation.features import classify, extract, rank_me, relative_std
from vitlab.models import VisionTransformer
from vitlab.models.backbone import in_eval_mode


def tiny_vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=2, drop_path_rate=0.5)


def test_features_are_the_embeddings_in_order_whatever_the_batches() -> None:
    model, images, labels = tiny_vit().train(), torch.randn(10, 3, 8, 8), torch.arange(10)
    batches = [([images[i : i + 4]], labels[i : i + 4]) for i in range(0, 10, 4)]
    features, targets = extract(model, batches)
    assert model.training
    assert torch.equal(targets, labels)
    torch.testing.assert_close(features, model.eval().embed(images))


def test_features_that_are_not_finite_are_refused() -> None:
    """A nearest neighbor of NaN would be the first image, and its class an answer."""
    images = torch.randn(4, 3, 8, 8)
    images[1] = torch.inf
    with pytest.raises(ValueError, match=r"^The features of 1 of 4 images are not finite"):
        extract(tiny_vit(), [([images], torch.arange(4))])


def test_a_part_that_is_in_evaluation_mode_stays_in_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).eval())
    with in_eval_mode(model):
        assert not model[0].training
    assert (model.training, model[0].training, model[1].training) == (True, True, False)


@pytest.mark.parametrize("labels", [torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.long), torch.rand(4)])
def test_labels_that_are_no_classes_are_refused_before_anything_is_computed(labels: torch.Tensor) -> None:
    """Several classes an image, shares of classes, a number to predict."""
    batches = [([torch.randn(4, 3, 8, 8)], labels)]
    for evaluate in (extract, classify):
        with pytest.raises(ValueError, match=r"^Labels \(B.*\) torch\.\w+ are not one class per image"):
            evaluate(tiny_vit(), batches)


def test_neighbors_vote_as_in_dinos_eval_knn() -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(5, 6, generator=generator), torch.randn(40, 6, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    expected = []
    for query in queries:
        cosine = torch.nn.functional.cosine_similarity(query[None], bank)
        votes = torch.zeros(4)
        for i in cosine.argsort(descending=True)[:7]:
            votes[labels[i]] += torch.exp(cosine[i] / 0.07)
        expected.append(int(votes.argmax()))
    assert predict_weighted(queries, bank, labels, 4, k=7).tolist() == expected
    assert len(predict_weighted(queries, bank, labels, 4, k=100)) == 5  # a bank smaller than k


def test_votes_among_many_examples_are_the_same_in_small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, bank = torch.randn(9, 6, generator=generator), torch.randn(40, 6, generator=generator)
    labels = torch.randint(4, (40,), generator=generator)
    whole = weighted_votes(queries, bank, labels, 4)
    monkeypatch.setattr("vitlab.evaluation.classifiers.MOST_SIMILARITIES", 90)  # two queries at a time
    # exp(cosine / 0.07) makes a rounding of the cosine fourteen times as large.
    torch.testing.assert_close(weighted_votes(queries, bank, labels, 4), whole, rtol=1e-5, atol=0)


# How far features spread, where it is known


def test_rank_is_the_number_of_dimensions_in_equal_use() -> None:
    assert rank_me(torch.eye(5)[torch.arange(40) % 5]) == pytest.approx(5)
    assert rank_me(torch.ones(40, 8)) == pytest.approx(1, abs=1e-5)
    assert rank_me(torch.zeros(40, 8)) == 1
    # Singular values 3 and 1: exp(−(3/4 ln 3/4 + 1/4 ln 1/4))
    assert rank_me(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(1.7547, abs=1e-4)


def test_std_is_zero_for_one_feature_and_one_for_all_directions() -> None:
    features = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    assert relative_std(features) == pytest.approx(1, abs=0.02)
    assert relative_std(7 * features) == pytest.approx(relative_std(features))  # of length 1, whatever they are
    assert relative_std(torch.ones(40, 8)) == pytest.approx(0, abs=1e-9)


# Neighbors of pixels


class Photos:
    """Images of 32 px whose splits are parts of one set."""

    num_classes = 4

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.images = torch.rand(370, 3, 32, 32)
        target = self.images[:, 0, 0, 0] * 4
        self.rows, self.target = self.images.flatten(1).numpy(), target.long()
        self.parts = {"train": range(200), "val": range(200, 300), "test": range(300, 370)}

    def labels(self, split: str) -> np.ndarray:
        return self.target[list(self.parts[split])].numpy()

    def batches(self, split: str, device: object, every: int = 1) -> Iterator[tuple[list[Tensor], Tensor]]:
        for chunk in torch.tensor(self.parts[split])[::every].split(32):
            yield [self.images[chunk]], self.target[chunk]


@pytest.mark.parametrize(
    ("bank", "most", "examples"),
    [(["train"], 50_000, range(200)), (["train", "val"], 50_000, range(300)), (["train"], 100, range(0, 200, 2))],
)
def test_pixels_are_classified_as_scikit_learn_does_by_the_same_votes(
    bank: list[str], most: int, examples: range
) -> None:
    photos = Photos()
    found, labels, count = classify_pixels(photos, bank, "test", most=most)
    votes = KNeighborsClassifier(20, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    votes.fit(photos.rows[list(examples)], photos.target[list(examples)])
    expected = votes.predict(photos.rows[list(photos.parts["test"])])
    assert np.mean(found.numpy() == expected) > 0.97  # float32 breaks near ties another way
    assert labels.tolist() == photos.labels("test").tolist()
    assert count == len(examples)


# The linear probe against scikit-learn's logistic regression, which solves the same convex problem


def clusters(n: int, seed: int, spread: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(3, (n,), generator=generator)
    return centers[labels] + spread * torch.randn(n, 8, generator=generator), labels


def test_the_optimum_is_scikit_learns() -> None:
    (x, y), strength = clusters(300, seed=1), 0.01
    probe = fit_linear_probe((x, y), clusters(50, seed=2), 3, strengths=(strength,))
    # scikit-learn sums over images and divides by C: C = 1 / (λ N)
    oracle = LogisticRegression(C=1 / (strength * len(x)), tol=1e-8, max_iter=1000)
    oracle.fit((x - x.mean(0)) / x.std(0), y)
    assert torch.allclose(probe.weight, torch.from_numpy(oracle.coef_).float(), atol=2e-3)


def test_the_strength_is_chosen_on_held_out_images() -> None:
    train, held_out = clusters(30, seed=1, spread=2.5), clusters(500, seed=2, spread=2.5)
    chosen = fit_linear_probe(train, held_out, 3)

    def right(probe: object) -> float:
        return float((probe.logits(held_out[0]).argmax(1) == held_out[1]).float().mean())  # type: ignore[attr-defined]

    assert right(chosen) == max(right(fit_linear_probe(train, held_out, 3, (s,))) for s in (1.0, 0.1, 1e-3, 1e-6))
    assert chosen.strength > 1e-6


def test_a_constant_feature_does_no_harm() -> None:
    x, y = clusters(100, seed=1)
    x[:, 0] = 7.0
    probe = fit_linear_probe((x, y), (x, y), 3)
    assert torch.isfinite(probe.logits(x)).all()
