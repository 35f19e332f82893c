"""Features in order and once; the weighted neighbors against DINO's formula written out."""

import pytest
import torch
from torch import nn

from vitlab.evaluation.classifiers import predict_weighted, weighted_votes
from vitlab.evaluation.features import classify, extract
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
