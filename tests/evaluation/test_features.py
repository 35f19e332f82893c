"""Features in order and once; the weighted neighbors against DINO's formula written out."""

import pytest
import torch

from vitlab.evaluation.features import classify, extract
from vitlab.evaluation.knn import predict_weighted, weighted_votes
from vitlab.models import VisionTransformer


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


@pytest.mark.parametrize("labels", [torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.long), torch.rand(4)])
def test_labels_that_are_no_classes_are_refused_before_anything_is_computed(labels: torch.Tensor) -> None:
    """Several classes an image, shares of classes, a number to predict."""
    batches = [([torch.randn(4, 3, 8, 8)], labels)]
    for evaluate in (extract, classify):
        with pytest.raises(
            ValueError, match=r"^The labels of these data, \(B.*\) \w+, are not classes; .* per image\.$"
        ):
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
    monkeypatch.setattr("vitlab.evaluation.knn.MOST_SIMILARITIES", 90)  # two queries at a time
    # exp(cosine / 0.07) makes a rounding of the cosine fourteen times as large.
    torch.testing.assert_close(weighted_votes(queries, bank, labels, 4), whole, rtol=1e-5, atol=0)
