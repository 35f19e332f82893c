"""Attention in known forms: uniform, to oneself, in windows; and the product of matrices that rollout stands for."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.objectives.small import BACKBONES, wake
from vitlab.analysis.attention import (
    attention_distance,
    attention_overlap,
    has_class_attention,
    input_map,
    jaccard,
    keep_mass,
    query_at,
    query_map,
    rollout,
)
from vitlab.analysis.page import of_pixels
from vitlab.models import AttentionMap, Backbone, SwinTransformer, TimmModel, VisionTransformer

SIZE, PREFIX, STRIDE = (2, 3), 1, 4


def dense(weights: Tensor) -> AttentionMap:
    """Attention among all tokens, as a ViT's."""
    return AttentionMap(weights, torch.arange(weights.shape[-1]).expand(weights.shape[-2:]), SIZE, STRIDE)


def random_attention() -> AttentionMap:
    return dense(torch.rand(2, 3, PREFIX + 6, PREFIX + 6).softmax(dim=-1))


def test_uniform_attention_looks_as_far_as_two_patches_are_apart_on_average() -> None:
    # By hand, in patches of 4 px on 2 × 3: each pair, itself included, counts once.
    places = [(row, column) for row in range(2) for column in range(3)]
    apart = [4 * ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5 for a in places for b in places]
    uniform = dense(torch.full((1, 2, 7, 7), 1 / 7))
    expected = torch.full((1, 2), sum(apart) / len(apart))
    torch.testing.assert_close(attention_distance(uniform), expected)


def test_a_model_without_attention_has_no_rollout() -> None:
    model = TimmModel("resnet18", num_classes=2, img_size=32)
    with pytest.raises(ValueError, match="TimmModel has no attention maps to follow"):
        input_map(model, torch.zeros(1, 3, 32, 32))


def test_a_map_larger_than_the_image_is_cut_to_it() -> None:
    """A Swin pads its map: of 2 x 3 tokens of 4 px, an image of 7 x 9 px."""
    attention = random_attention()
    shown = of_pixels(attention, PREFIX, 7, 9)
    assert shown.shape == (3, 7, 9)
    heads = query_map(attention, PREFIX)[0].numpy()
    assert np.array_equal(shown[:, 3, 8], heads[:, 0, 2])
    assert np.array_equal(shown[:, 4, 7], heads[:, 1, 1])


def test_distance_in_windows_is_that_of_the_dense_weights() -> None:
    """The definition on weights written to all pairs of tokens, whatever windows, shift and padding."""
    torch.manual_seed(0)
    model = SwinTransformer(img_size=(20, 28), patch_size=2, in_chans=1, embed_dim=8, depths=(2, 2), num_heads=(1, 2))
    for attention in model.eval().attention_maps(torch.randn(2, 1, 20, 28)):
        (H, W), weights = attention.size, attention.dense()
        rows, columns = torch.arange(H * W) // W, torch.arange(H * W) % W
        apart = ((rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2).float().sqrt() * attention.stride
        expected = ((weights * apart).sum(dim=-1) / weights.sum(dim=-1)).mean(dim=-1)
        torch.testing.assert_close(attention_distance(attention), expected)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_strides_are_pixels_of_the_image(backbone: str) -> None:
    maps = BACKBONES[backbone]().attention_maps(torch.randn(1, 1, 8, 8))
    assert [(a.size[0] * a.stride, a.size[1] * a.stride) for a in maps] == [(8, 8)] * len(maps)


@pytest.mark.parametrize("backbone", ["swin", "swin_v2"])
def test_every_querys_weights_are_put_back_whole(backbone: str) -> None:
    for attention in BACKBONES[backbone]().eval().attention_maps(torch.randn(2, 1, 8, 8)):
        for query in range(attention.weights.shape[2]):
            shares = query_map(attention, query).sum(dim=(2, 3))
            torch.testing.assert_close(shares, torch.ones_like(shares))


def test_the_map_of_a_query_is_its_row_of_the_weights() -> None:
    attention = random_attention()
    for query in (0, 3, 6):
        expected = attention.weights[:, :, query, PREFIX:].unflatten(2, SIZE)
        assert torch.equal(query_map(attention, query), expected)


def test_a_pixel_is_asked_about_at_its_patch() -> None:
    # Patches of 4 px: row 7 is in the second of two rows, column 8 in the third of three columns.
    assert query_at(random_attention(), 7, 8) == PREFIX + 1 * 3 + 2


def test_rollout_is_the_product_of_halved_attention() -> None:
    """Abnar and Zuidema, eq. 1 with the residual connection as (A + I) / 2, later layers to the left."""
    maps = [random_attention() for _ in range(3)]
    expected = torch.eye(7).expand(2, 7, 7)
    for attention in maps:
        halved = (attention.weights.mean(dim=1) + torch.eye(7)) / 2
        expected = halved @ expected
    torch.testing.assert_close(rollout(maps, torch.eye(7).expand(2, 7, 7)), expected)


@pytest.mark.parametrize("size", [(8, 8), (6, 10)], ids=["even", "odd"])
def test_rollout_through_merging_loses_nothing(size: tuple[int, int]) -> None:
    model = SwinTransformer(img_size=size, patch_size=2, in_chans=1, embed_dim=8, depths=(2, 1), num_heads=(1, 2))
    maps = model.eval().attention_maps(torch.randn(2, 1, *size))
    rows = torch.rand(2, 3, maps[-1].weights.shape[2]).softmax(dim=-1)
    assert maps[0].size == (size[0] // 2, size[1] // 2)
    torch.testing.assert_close(rollout(maps, rows).sum(dim=-1), torch.ones(2, 3))


def vit(**changes: Any) -> VisionTransformer:
    return VisionTransformer(8, 2, 1, embed_dim=16, depth=2, num_heads=2, **changes)


def test_a_rollout_starts_at_the_class_token_and_not_at_registers() -> None:
    model = vit(reg_tokens=3)
    wake(model)
    x = torch.randn(2, 1, 8, 8)
    maps = model.eval().attention_maps(x)
    rows = torch.zeros(2, 1, 20)
    rows[..., 0] = 1
    torch.testing.assert_close(input_map(model, x).flatten(1), rollout(maps, rows)[:, 0, 4:])


@pytest.mark.parametrize(
    "make",
    [
        *BACKBONES.values(),
        lambda: vit(global_pool="avg"),
        lambda: vit(reg_tokens=3),
        lambda: vit(class_token=False, global_pool="avg"),
    ],
    ids=[*BACKBONES, "vit_avg", "registers", "no class token"],
)
def test_a_model_that_looks_everywhere_alike_reads_from_everywhere_alike(make: Callable[[], Backbone]) -> None:
    """With q and k, and biases, at 0 attention is uniform, and so is what reaches the classifier."""
    model = make()
    wake(model)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("qkv", "bias_table", "cpb_mlp")):
            torch.nn.init.zeros_(parameter)
    maps = input_map(model.eval(), torch.randn(2, 1, 8, 8)).detach()
    torch.testing.assert_close(maps, maps.mean().expand_as(maps))


# Attention against masks, by hand-made maps


SHAPES = {"data": {"class_path": "vitlab.data.Shapes", "init_args": {"batch_size": 100, "eval_batch_size": 300}}}


def test_the_patches_that_hold_the_mass_are_kept() -> None:
    """Of 0.40, 0.25, 0.20, 0.10, 0.05 the first two hold 65 %, the first alone 40 %: two are kept for 60 %."""
    row = torch.tensor([0.10, 0.40, 0.05, 0.25, 0.20])
    maps = torch.stack([row, row.flip(0)]).view(1, 2, 1, 5)
    assert keep_mass(maps).view(2, 5).tolist() == [[False, True, False, True, False], [False, True, False, True, False]]
    assert keep_mass(7 * maps, 0.7).view(2, 5)[0].tolist() == [False, True, False, True, True]


def test_thresholds_are_those_of_the_released_code() -> None:
    """Its loop over heads, for random maps."""
    maps = torch.rand(3, 4, 5, 6).softmax(-1)
    for image, ours in zip(maps, keep_mass(maps), strict=True):
        for head, kept in zip(image, ours, strict=True):
            values, order = torch.sort(head.flatten())
            expected = (torch.cumsum(values / values.sum(), 0) > 1 - 0.6)[torch.argsort(order)]
            assert torch.equal(kept.flatten(), expected)


def test_jaccard_is_intersection_over_union() -> None:
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[0, :2, :2] = True  # 4 pixels
    masks = torch.zeros(1, 3, 4, 4, dtype=torch.bool)
    masks[0, 0, :2] = True  # 8 pixels, 4 of them inside
    masks[0, 1] = truth[0]
    masks[0, 2, 3, 3] = True
    assert jaccard(masks, truth)[0].tolist() == [0.5, 1.0, 0.0]


class Looking(VisionTransformer):
    """Its class token looks with the first head at the left half of an image, with the second at its upper half."""

    def attention_maps(self, images: Tensor) -> list[AttentionMap]:
        maps = torch.zeros(2, 2, 2)
        maps[0, :, 0] = maps[1, 0] = 0.5
        weights = torch.cat([torch.zeros(2, 1), maps.flatten(1)], dim=1).expand(len(images), 5, 2, 5).transpose(1, 2)
        return [AttentionMap(weights, torch.arange(5).expand(5, 5), (2, 2), 4)]


def test_the_best_head_of_each_image_is_found() -> None:
    model = Looking(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=2)
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, :, :4] = True  # the left half: 1 and 16 of 48 pixels
    masks[1, :4] = True  # the upper half: the other way round
    masks[2, :4, :4] = True  # the corner of both: half
    measured = attention_overlap(model, torch.zeros(3, 1, 8, 8).split(2), masks)
    assert measured.best.mean() == pytest.approx((1 + 1 + 0.5) / 3)
    assert measured.mean.mean() == pytest.approx((2 / 3 + 2 / 3 + 0.5) / 3)


def test_asking_for_attention_changes_nothing() -> None:
    model = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2, norm="batch", drop_path_rate=0.5
    ).train()
    before, drawn = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert has_class_attention(model, torch.ones(2, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(part.training for part in model.modules())
