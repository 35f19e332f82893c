"""Features of stages: the oracle is timm, with the same weights and the same arguments."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from tests.models.small_models import SMALL, images, pair_of, relative_error, shake
from vitlab.models import Backbone, Features, ImageModel, TimmModel, resnet_micro_16
from vitlab.models.layers import PatchEmbed, classifier


def expect_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert [x.shape for x in ours] == [x.shape for x in theirs]
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("indices", [None, 1, 2, [0, 2], [-1, 0], [1]], ids=str)
def test_maps_are_timms(family: str, indices: int | list[int] | None, norm: bool) -> None:
    ours, theirs = (model.eval() for model in pair_of(family))
    x = images(ours)
    arguments: dict[str, Any] = {"indices": indices, "norm": norm, "intermediates_only": True}
    expected = theirs.forward_intermediates(x, **arguments)
    expect_equal(ours.forward_intermediates(x, **arguments), expected)
    expect_equal(ours.features_only(indices, norm)(x), expected)


@pytest.mark.parametrize("family", ["vit", "deit"])
def test_prefix_tokens_and_sequences_are_timms(family: str) -> None:
    ours, theirs = (model.eval() for model in pair_of(family))
    x = images(ours)
    arguments: dict[str, Any] = {"indices": 2, "return_prefix_tokens": True, "output_fmt": "NLC", "norm": True}
    (features, pairs), (last, expected) = (m.forward_intermediates(x, **arguments) for m in (ours, theirs))
    for mine, yours in zip(pairs, expected, strict=True):
        expect_equal(list(mine), list(yours))
    expect_equal([torch.cat(features, dim=1)], [last])


def test_the_features_are_those_of_the_model(family: str) -> None:
    ours = shake(SMALL[family]()).eval()
    x = images(ours)
    features, maps = ours.forward_intermediates(x)
    assert all(torch.equal(a, b) for a, b in zip(features, ours.forward_features(x), strict=True))
    assert len(maps) == len(ours.feature_info)
    assert torch.equal(ours(x), ours.forward_head(features))


def test_stages_have_timms_names_widths_and_strides(family: str) -> None:
    ours, theirs = pair_of(family)
    assert ours.feature_info == theirs.feature_info
    for info, found in zip(ours.feature_info, ours.features_only()(images(ours)), strict=True):
        side = ours.img_size[0] // info["reduction"]
        assert found.shape == (2, info["num_chs"], side, side)


def test_registers_average_pooling_and_other_sizes_change_nothing() -> None:
    ours = shake(SMALL["vit"](global_pool="avg", reg_tokens=3, patch_drop_rate=0.5))
    x = torch.randn(2, 3, 24, 32)
    maps = ours.train().features_only()(x)  # a training that drops patches drops none of a map
    assert [tuple(found.shape) for found in maps] == [(2, 24, 6, 8)] * 3
    ((_, prefix),) = ours.forward_intermediates(x, 1, return_prefix_tokens=True, intermediates_only=True)
    assert prefix.shape == (2, 4, 24)
    last = ours.eval().forward_intermediates(x, 1, intermediates_only=True, output_fmt="NLC")[0]
    assert torch.equal(last, ours.forward_features(x).patches)  # its norm follows the pooling


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_timms_models_return_timms_maps(name: str) -> None:
    model = TimmModel(name, num_classes=0, img_size=64).eval()
    x = images(model)
    expected = model.net.forward_intermediates(x, intermediates_only=True)
    maps = model.features_only()
    expect_equal(maps(x), expected)
    assert maps.feature_info == model.net.feature_info
    shapes = [(info["num_chs"], 64 // info["reduction"]) for info in maps.feature_info]
    assert [(found.shape[1], found.shape[2]) for found in expected] == shapes
    theirs: Any = timm.create_model(name, features_only=True, out_indices=(1, 2))
    chosen = model.features_only((1, 2)).feature_info
    assert [info["num_chs"] for info in chosen] == theirs.feature_info.channels()
    assert [info["reduction"] for info in chosen] == theirs.feature_info.reduction()


def test_a_small_stem_has_smaller_strides() -> None:
    model = resnet_micro_16(num_classes=10).eval()
    assert isinstance(model, ImageModel)
    maps = model.features_only()
    assert [info["reduction"] for info in maps.feature_info] == [1, 1, 2, 4, 8]
    assert [16 // found.shape[2] for found in maps(images(model))] == [1, 1, 2, 4, 8]


class Isotropic(Backbone):
    """A custom architecture that only encodes."""

    def __init__(self) -> None:
        super().__init__()
        self.img_size, self.in_chans, self.num_classes, self.num_features = (8, 8), 3, 0, 6
        self.patch_embed = PatchEmbed(8, 2, 3, 6)
        self.blocks = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = classifier(6, 0)

    def encode(self, tokens: Tensor) -> Features:
        for block in self.blocks:
            tokens = block(tokens)
        patches = tokens.flatten(1, -2)
        return Features(prefix=patches[:, :0], patches=patches)


def test_a_custom_architecture_has_maps() -> None:
    model = Isotropic()
    assert model.feature_info[1] == {"module": "blocks.1", "num_chs": 6, "reduction": 2}
    x = images(model)
    features, (first, last) = model.forward_intermediates(x)
    assert torch.equal(first, model.blocks[0](model.patch_embed(x)).permute(0, 3, 1, 2))
    assert torch.equal(last.flatten(2).mT, features.patches)
    with pytest.raises(AttributeError, match="has no attribute `norm`"):
        model.forward_intermediates(x, norm=True)


class TwoStages(Isotropic):
    """A map of 16 channels and stride 2, then one of 32 channels and stride 4."""

    def __init__(self, img_size: int = 16) -> None:
        super().__init__()
        self.img_size, self.num_features = (img_size, img_size), 32
        self.patch_embed = PatchEmbed(img_size, 2, 3, 16)
        self.blocks = nn.ModuleList([nn.Linear(16, 16), Merging()])
        self.head = classifier(32, 0)

    @property
    def stride(self) -> int:
        return 4


class Merging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 32, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        return self.conv(x.movedim(-1, 1)).movedim(1, -1)


@pytest.mark.parametrize("img_size", [16, 6])  # 6: the first map of 3 × 3 is padded before it is merged
def test_a_custom_architecture_reports_both_of_its_stages(img_size: int) -> None:
    model = TwoStages(img_size).train()
    first, second = model.features_only().feature_info
    assert first == {"module": "blocks.0", "num_chs": 16, "reduction": 2}
    assert second == {"module": "blocks.1", "num_chs": 32, "reduction": 4}
    assert model.training
    for info, found in zip((first, second), model.features_only()(images(model)), strict=True):
        assert found.shape[1:] == (info["num_chs"], *(-(-side // info["reduction"]) for side in model.img_size))


def test_blocks_that_give_no_maps_are_named_with_what_they_give() -> None:
    model = TwoStages()
    model.blocks[1] = nn.Sequential(Merging(), nn.Flatten(1, 2))  # 16 tokens, and the grid has 64
    with pytest.raises(ValueError, match=r"TwoStages: blocks.1 gives \(1, 16, 32\) .* all 64 patches"):
        model.features_only()


@pytest.mark.parametrize("indices", [0, 4, [3], [0, -4], []], ids=str)
def test_stages_that_do_not_exist_are_refused(indices: int | list[int]) -> None:
    model = SMALL["vit"]()
    with pytest.raises(ValueError, match=r"there are 0 to 2"):
        model.features_only(indices)
    with pytest.raises(ValueError, match="there are 0 to"):
        model.forward_intermediates(images(model), indices)


def test_a_model_without_maps_says_so() -> None:
    class Pooled(ImageModel):
        def embed(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

    with pytest.raises(ValueError, match="Pooled gives no maps"):
        Pooled().features_only()
    with pytest.raises(ValueError, match="Pooled gives no maps"):
        Pooled().forward_intermediates(torch.zeros(1, 3, 4, 4))
