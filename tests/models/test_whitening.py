"""The whitened patch embedding."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitlab.models.layers import PatchEmbed
from vitlab.models.whitening import EPS, whiten_patches


def images() -> Tensor:
    """Return images whose neighboring pixels are alike, as in photographs, and whose mean is not 0."""
    noise = torch.randn(256, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 2, stride=1)[..., :8, :8] * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 0.5


def embed(dim: int) -> PatchEmbed:
    torch.manual_seed(0)
    return PatchEmbed(8, 4, 3, dim)


def test_whitened_patches_are_uncorrelated_and_of_variance_one() -> None:
    whitened, x = embed(128), images()
    whiten_patches(whitened, x.split(100))
    tokens = whitened(x).flatten(0, 2).double()  # (B·N, D)
    filters = whitened.proj.weight.flatten(1)
    first = tokens[:, :48]
    variance = 1 - EPS * filters[:48].double().square().sum(dim=1)  # λ / (λ + ε), and |w|² is 1 / (λ + ε)
    torch.testing.assert_close(first.T.cov(correction=0), variance.diag(), rtol=1e-3, atol=1e-3)
    assert variance.min() > 0.9
    assert first.mean(dim=0).abs().max() < 1e-4
    torch.testing.assert_close(tokens[:, 48:96], -first, atol=1e-4, rtol=1e-3)
    assert (filters[:48].norm(dim=1).diff() > 0).all()  # the widest spread direction first
    torch.testing.assert_close(filters[96:], embed(128).proj.weight.flatten(1)[96:])  # these 32 are as they were


@pytest.mark.parametrize("dim", [20, 60])
def test_a_narrow_embedding_has_the_first_of_them(dim: int) -> None:
    wide, narrow = embed(96), embed(dim)
    for each in (wide, narrow):
        whiten_patches(each, [images()])
    assert torch.equal(narrow.proj.weight, wide.proj.weight[:dim])


def test_pixels_that_are_always_black_do_no_harm() -> None:
    x, whitened = images(), embed(96)
    x[:, :, 0] = 0
    whiten_patches(whitened, [x])
    assert whitened.proj.weight.isfinite().all()


def test_an_image_that_is_not_black_where_all_others_are_is_not_enlarged() -> None:
    """1/√ε would make 45 of each such pixel."""
    x = images()
    x[:, :, :, [0, 4]] = 0  # a column of each patch
    whitened = embed(96)
    whiten_patches(whitened, [x])
    other = x[:1].clone()
    other[..., [0, 4]] = 1
    assert 0.5 < (whitened(other) - whitened(x[:1])).abs().max() < 3


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no training images"):
        whiten_patches(embed(96), [])
