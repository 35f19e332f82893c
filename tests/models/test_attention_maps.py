"""Attention recomputed on request, at the places of the image that its tokens have."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.models.small_models import SMALL, VIT, images, shake
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer


def test_each_token_gives_all_its_attention_away(small: Callable[..., Backbone]) -> None:
    model = shake(small(img_size=16)).eval()
    assert isinstance(model, Backbone)
    maps = model.attention_maps(images(model))
    assert len(maps) == len(model.parameters_by_depth()) - 2  # one a block
    for attention in maps:
        B, h, Q, K = attention.weights.shape
        assert B == 2
        assert h >= 1
        assert attention.keys.shape == (Q, K)
        torch.testing.assert_close(attention.weights.sum(dim=-1), torch.ones(B, h, Q))
        assert attention.dense().shape == (B, h, Q, Q)
        assert Q - attention.size[0] * attention.size[1] in (0, 1, 2)  # prefix tokens


def test_asking_changes_nothing(small: Callable[..., Backbone]) -> None:
    model = shake(small()).eval()
    x = images(model)
    before = model(x)
    model.attention_maps(x)  # type: ignore[operator]
    assert torch.equal(model(x), before)


def test_weights_of_a_vit_are_those_that_make_its_output() -> None:
    model = shake(VisionTransformer(**VIT | {"depth": 1})).eval()
    assert isinstance(model, VisionTransformer)
    x = images(model)
    block = model.blocks[0]
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(x).flatten(1, 2)], dim=1) + model.pos_embed
    inputs = block.norm1(tokens)  # type: ignore[operator]
    (attention,) = model.attention_maps(x)
    _, _, v = block.attn.project_qkv(inputs)  # type: ignore[union-attr, operator]
    output = block.attn.proj((attention.dense() @ v).transpose(1, 2).flatten(2))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(output, block.attn(inputs))  # type: ignore[operator]


@pytest.mark.parametrize("family", ["swin", "swinv2"])
@pytest.mark.parametrize("size", [(32, 32), (20, 28)], ids=["divided", "padded"])
def test_swins_weights_are_those_that_make_its_output_token_by_token(family: str, size: tuple[int, int]) -> None:
    # Independent of the windows: attention as a dense matrix over the map must give what the windowed block gives,
    # if rolled, cut, padded and put back rightly. Padding has a value of its own: the bias of v.
    model = shake(SMALL[family](img_size=size)).eval()
    assert isinstance(model, SwinTransformer | SwinTransformerV2)
    x = images(model)
    maps = model.attention_maps(x)
    seen: dict[int, tuple[Tensor, Tensor]] = {}
    blocks = [block for stage in model.layers for block in stage.blocks]  # type: ignore[union-attr]
    for i, block in enumerate(blocks):
        attend = block.attend

        def record(x: Tensor, i: int = i, attend: Callable[[Tensor], Tensor] = attend) -> Tensor:
            seen[i] = (x, attend(x))
            return seen[i][1]

        block.attend = record
    model(x)
    for i, (block, attention) in enumerate(zip(blocks, maps, strict=True)):
        inputs, output = seen[i]
        attn = block.attn
        bias = (
            attn.qkv.bias if family == "swin" else torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
        )
        bias = bias[-len(bias) // 3 :].unflatten(0, (attn.num_heads, -1))  # (h, d)
        weight = attn.qkv.weight.chunk(3)[2]
        v = (inputs @ weight.T).flatten(1, 2).unflatten(-1, (attn.num_heads, -1)).transpose(1, 2)  # (B, h, H·W, d)
        out = attention.dense() @ v + bias[:, None]  # weights, those of padding included, sum to one
        expected = attn.proj(out.transpose(1, 2).flatten(2)).unflatten(1, attention.size)
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=1e-4)
