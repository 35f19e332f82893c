"""Attention against masks, by hand-made maps."""

import copy

import pytest
import torch
from torch import Tensor

from vitlab.analysis.attention import attention_overlap, has_class_attention, jaccard, keep_mass
from vitlab.models import AttentionMap, VisionTransformer

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
