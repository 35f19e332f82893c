"""How weights start: the whitened patch embedding, and attention at one neighbor."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.small_models import SWIN
from vitlab.models import SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.models.impulses import draw_offsets
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


def test_an_image_that_is_not_black_where_all_others_are_is_not_enlarged() -> None:
    """1/√ε would make 45 of each such pixel."""
    x = images()
    x[:, :, :, [0, 4]] = 0  # a column of each patch
    whitened = embed(96)
    whiten_patches(whitened, [x])
    other = x[:1].clone()
    other[..., [0, 4]] = 1
    assert 0.5 < (whitened(other) - whitened(x[:1])).abs().max() < 3


# Attention that starts at one neighbor


def looked_at(weights: Tensor, least: float) -> Iterator[tuple[tuple[int, int], float]]:
    """Yield the offset of each token's best key and its weight, above `least`: (rows, columns, rows, columns)."""
    for row, column in product(range(weights.shape[0]), range(weights.shape[1])):
        best, place = weights[row, column].flatten().max(dim=0)
        if best > least:
            yield (row - int(place) // weights.shape[3], column - int(place) % weights.shape[3]), best.item()


@pytest.mark.parametrize("distance", [1, 2])
@pytest.mark.parametrize(
    ("build", "kind"), [(SwinTransformer, "table"), (SwinTransformerV2, "log"), (SwinTransformerV2, "table")]
)
def test_each_head_of_a_swin_gives_four_fifths_to_one_neighbor(build: Any, kind: str, distance: int) -> None:
    for block in build(position_bias=kind, impulses=distance, **SWIN).blocks:
        attn = block.attn
        torch.nn.init.zeros_(attn.qkv.weight)  # no token resembles another
        window, N = attn.window, attn.window[0] * attn.window[1]
        weights = attn.attention_probs(torch.randn(1, *window, attn.proj.in_features), None)[0]
        for head in weights.unflatten(2, window).unflatten(1, window):
            found = list(looked_at(head, 1.5 / N))  # 1 / N each where the neighbor is in another window
            assert [weight for _, weight in found] == pytest.approx([0.8] * len(found), abs=1e-3)
            (offset,) = {offset for offset, _ in found}
            assert set(map(abs, offset)) <= {0, distance}


@pytest.mark.parametrize(("distance", "img_size"), [(1, 32), (2, 16)])
def test_each_head_of_a_vit_looks_at_one_neighbor_where_patches_are_alike(distance: int, img_size: int) -> None:
    """On images of half the size, positions are resized, and two tokens become one."""
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 2, "num_heads": 3}
    model = VisionTransformer(**sizes, reg_tokens=1, impulses=distance)  # type: ignore[arg-type]
    torch.nn.init.zeros_(model.patch_embed.proj.weight)
    side = img_size // 4
    tokens = model.add_pos_embed(model.patch_embed(torch.zeros(1, 3, img_size, img_size))).flatten(1, 2)
    offsets = []
    for block in model.blocks:
        weights = block.attn.attention_probs(block.norm1(tokens))[0]
        for head in weights.unflatten(2, (side, side)).unflatten(1, (side, side)):
            inner = head[1:-1, 1:-1]
            (offset,) = {(row + 1, column + 1) for (row, column), _ in looked_at(inner, 0.1)}
            offsets.append(offset)
    assert max(abs(tokens) for offset in offsets for tokens in offset) == 1
    assert len(set(offsets)) > 1


def test_heads_share_no_neighbor_before_all_nine_are_drawn() -> None:
    torch.manual_seed(0)
    for heads in (3, 9, 12):
        offsets = [tuple(offset) for offset in draw_offsets(heads, 2).tolist()]
        assert len(set(offsets)) == min(heads, 9)


@pytest.mark.parametrize("build", [SwinTransformer, SwinTransformerV2])
def test_biases_that_are_not_there_are_not_started(build: Any) -> None:
    with pytest.raises(ValueError, match="which position_bias absolute has not"):
        build(position_bias="absolute", impulses=1, **SWIN)


def test_impulses_that_a_vit_cannot_have_are_refused() -> None:
    with pytest.raises(ValueError, match="4 divides, not 36 and 6"):
        VisionTransformer(embed_dim=36, num_heads=6, depth=1, impulses=1)
    with pytest.raises(ValueError, match="fixed_pos_embed: true set impulses: 0"):
        VisionTransformer(
            img_size=32, patch_size=4, embed_dim=32, num_heads=2, depth=1, impulses=1, fixed_pos_embed=True
        )
    with pytest.raises(ValueError, match="impulses is -1"):
        VisionTransformer(embed_dim=32, num_heads=2, depth=1, impulses=-1)
