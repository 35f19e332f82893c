"""The attentive probe finds what a mean over the tokens hides; the expectations follow from how the tokens are made."""

import torch
from torch import Tensor

from vitlab.evaluation import attentive
from vitlab.evaluation.attentive import fit_attentive_probe, logits_of, tokens_of
from vitlab.evaluation.linear import fit_linear_probe
from vitlab.models import TimmModel, VisionTransformer

CPU = torch.device("cpu")


def hidden(images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return tokens of which one, marked by its first channel, tells the class; another hides it from the mean."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (images,), generator=generator)
    tokens = 0.1 * torch.randn(images, 6, 8, generator=generator)
    marked = torch.randint(3, (images,), generator=generator)
    sign = 2.0 * labels - 1
    tokens[torch.arange(images), marked, 0] += 3
    tokens[torch.arange(images), marked, 1] += sign
    tokens[torch.arange(images), marked + 3, 1] -= sign
    return tokens, labels


def test_it_finds_what_a_mean_hides() -> None:
    train, val, test = hidden(400, 0), hidden(100, 1), hidden(200, 2)
    head = fit_attentive_probe(train, val, 2, seed=0, device=CPU)
    assert float((logits_of(head, test[0]).argmax(dim=1) == test[1]).float().mean()) > 0.95
    means = [(tokens.mean(dim=1), labels) for tokens, labels in (train, val, test)]
    linear = fit_linear_probe(means[0], means[1], 2)
    assert float((linear.logits(means[2][0]).argmax(dim=1) == test[1]).float().mean()) < 0.7


def test_it_is_a_function_of_its_seed() -> None:
    train, val = hidden(50, 0), hidden(20, 1)
    state = torch.random.get_rng_state()
    heads = [fit_attentive_probe(train, val, 2, seed, CPU) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    logits = [logits_of(head, val[0]) for head in heads]
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


def test_tokens_are_the_places_of_the_last_map() -> None:
    x = torch.randn(2, 3, 32, 32)
    vit = VisionTransformer(32, 8, num_classes=3, embed_dim=12, depth=2, num_heads=2).eval()
    assert tokens_of(vit, x).shape == (2, 16, 12)
    cnn = TimmModel("resnet10t", num_classes=3, img_size=32).eval()
    assert tokens_of(cnn, x).shape == (2, 1, 512)
    torch.testing.assert_close(tokens_of(cnn, x).mean(dim=1), cnn.embed(x))
    assert attentive.AttentiveHead(512, 3)(tokens_of(cnn, x)).shape == (2, 3)
