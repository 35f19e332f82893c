"""Our architectures compute timm's functions: the installed timm, with the same weights, is the oracle."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import vitlab.models
from tests.models.small_models import SMALL, TIMM, images, pair_of, relative_error, shake

# (family, arguments): native sizes, then the corners where implementations part.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("vit", {}),
    ("vit", {"img_size": (8, 24)}),
    ("vit", {"global_pool": "avg"}),
    ("vit", {"global_pool": "avg", "fc_norm": False}),
    ("vit", {"no_embed_class": True, "init_values": 0.1}),
    ("vit", {"qkv_bias": False, "in_chans": 1}),
    ("vit", {"reg_tokens": 3}),
    ("vit", {"reg_tokens": 4, "no_embed_class": True, "init_values": 0.1}),  # DINOv2
    ("vit", {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    ("vit", {"class_token": False, "global_pool": "avg", "reg_tokens": 1, "no_embed_class": True}),
    ("deit", {}),
    ("deit", {"img_size": (8, 24)}),
    *(
        (family, changes)
        for family in ("swin", "swinv2")
        for changes in (
            {},
            {"img_size": (32, 48)},
            {"img_size": 24, "patch_size": 2},  # maps 12, 6, 3; windows of 4 do not divide the second: padded
            {"img_size": 18, "patch_size": 2, "window_size": 9},  # odd maps: 9, 5, 3
            {"window_size": (4, 2)},
            {"window_size": (8, 4, 2)},
            {"window_size": 32},  # larger than any map: clamped, no shift
            {"img_size": 8},  # the last map is one token
            {"window_size": 1},
            {"qkv_bias": False, "in_chans": 1},
        )
    ),
    ("swinv2", {"pretrained_window_sizes": (6, 6, 3)}),
]


@pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_logits_and_gradients_are_timms(family: str, changes: dict[str, Any], training: bool) -> None:
    ours, theirs = (model.train(training) for model in pair_of(family, **changes))
    x = images(ours)
    # Single precision as promised; double to tell a wrong gradient from a rounded one (tables are made in single).
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        (logits, gradients), (expected_logits, expected) = (
            logits_and_gradients(model.to(dtype), x.to(dtype)) for model in (ours, theirs)
        )
        assert relative_error(logits, expected_logits) < tolerance
        assert gradients.keys() == expected.keys()
        # Gradients that are 0 in exact arithmetic, as a bias of all keys has, would compare noise with noise.
        floor = 1e-2 * max(gradient.abs().max() for gradient in expected.values())
        for name in expected:
            error = (gradients[name] - expected[name]).abs().max()
            assert error < tolerance * max(expected[name].abs().max(), floor), (name, dtype)


def logits_and_gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    logits = model(x)
    logits.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return logits, gradients | {"images": x.grad}


@pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
def test_embedding_and_no_decay_are_timms(family: str, changes: dict[str, Any]) -> None:
    ours, theirs = (model.eval() for model in pair_of(family, **changes))
    x = images(ours)
    expected = theirs.forward_head(theirs.forward_features(x), pre_logits=True)
    assert relative_error(ours.embed(x), expected) < 1e-5
    names = {name for name, _ in theirs.named_parameters()}
    assert ours.no_weight_decay() == theirs.no_weight_decay() & names
    ours.reset_classifier(0)
    theirs.reset_classifier(0)
    assert relative_error(ours(x), theirs(x)) < 1e-5


NO_CLASS_TOKEN = {"class_token": False, "global_pool": "avg"}


@pytest.mark.parametrize(
    ("family", "changes"),
    [("swin", {}), ("swinv2", {}), ("vit", {}), ("vit", {"reg_tokens": 2}), ("vit", NO_CLASS_TOKEN)],
    ids=str,
)
def test_other_image_sizes_are_timms_dynamic_sizes(family: str, changes: dict[str, Any]) -> None:
    theirs = shake(TIMM[family](dynamic_img_size=True, **changes)).eval()
    ours = SMALL[family](**changes).eval()
    ours.load_state_dict(theirs.state_dict())
    for size in [(16, 16), (24, 40), *([(12, 20)] if family == "vit" else [])]:
        x = torch.randn(2, 3, *size)
        assert relative_error(ours(x), theirs(x)) < 1e-5, size


def test_images_that_patches_do_not_divide_are_padded_as_by_timms_dynamic_img_pad() -> None:
    theirs = shake(TIMM["vit"](dynamic_img_size=True, dynamic_img_pad=True)).eval()
    ours = SMALL["vit"](dynamic_img_pad=True).eval()
    ours.load_state_dict(theirs.state_dict())
    for size in [(17, 30), (13, 22)]:
        x = torch.randn(2, 3, *size)
        assert relative_error(ours(x), theirs(x)) < 1e-5, size


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_a_swin_pads_images_with_zeros_below_and_to_the_right(family: str) -> None:
    model = shake(SMALL[family](dynamic_img_pad=True)).eval()
    x = torch.randn(2, 3, 15, 21)
    side = model.patch_size
    padded = torch.nn.functional.pad(x, (0, -21 % side, 0, -15 % side))
    assert relative_error(model(x), model(padded)) < 1e-6
    assert model.attention_maps(x)[0].weights.shape == model.attention_maps(padded)[0].weights.shape


@pytest.mark.parametrize("training", [False, True])
def test_bfloat16_is_as_near_to_float32_as_timms(family: str, training: bool) -> None:
    ours, theirs = (model.train(training) for model in pair_of(family))
    x = images(ours, batch=4)
    exact = theirs(x)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(training):
        error, allowed = (relative_error(model(x).float(), exact) for model in (ours, theirs))
    assert error < 1.5 * allowed + 1e-2


def test_gradients_in_bfloat16_are_as_near_to_float32_as_timms(family: str) -> None:
    # Of all parameters together: in this precision that of one of them may be off by chance.
    ours, theirs = pair_of(family)
    x = images(ours, batch=4)
    exact = flat(logits_and_gradients(theirs, x)[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        error, allowed = ((flat(logits_and_gradients(m, x)[1]) - exact).norm() / exact.norm() for m in (ours, theirs))
    assert 0 < error < 1.5 * allowed + 1e-2


def flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].float().flatten() for name in sorted(gradients)])


@pytest.mark.parametrize("family", ["vit", "swin", "swinv2"])
def test_stochastic_depth_drops_what_timms_does(family: str) -> None:
    # The same random numbers, drawn once for each sample and branch, at rates that grow alike with depth.
    ours, theirs = (model.train() for model in pair_of(family, drop_path_rate=0.5))
    x, logits = images(ours, batch=8), []
    for model in (ours, theirs):
        torch.manual_seed(1)
        logits.append(model(x))
    assert relative_error(*logits) < 1e-5
    assert relative_error(ours.eval()(x), logits[0]) > 1e-3  # something was dropped


def test_parameters_start_as_widely_spread_as_timms(family: str) -> None:
    # At the narrowest published width; narrower models start otherwise (test_backbones.py).
    vit = family in ("vit", "deit")
    sizes: dict[str, Any] = {"embed_dim": 192, "num_heads": 2} if vit else {"embed_dim": 96, "num_heads": (1, 2, 4)}
    ours, theirs = SMALL[family](**sizes), TIMM[family](**sizes)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if parameter.numel() > 500:
            assert parameter.std().item() == pytest.approx(expected[name].std().item(), rel=0.2), name
        elif parameter.ndim == 1 and "patch_embed" not in name and "cpb_mlp" not in name:  # biases, norms
            assert torch.equal(parameter, expected[name]), name


# Full size, at the size that the name states and at one for small images (patch 2, window 4, 32 px).
NAMED: list[tuple[str, dict[str, Any]]] = [
    ("vit_tiny_patch16_224", {}),
    ("vit_small_patch32_384", {}),
    ("vit_small_patch14_reg4_dinov2", {"img_size": 98, "num_classes": 5}),
    ("vit_medium_patch16_gap_240", {"num_classes": 5}),
    ("vit_medium_patch16_reg4_gap_256", {}),
    ("deit_tiny_distilled_patch16_224", {}),
    ("swin_tiny_patch4_window7_224", {}),
    ("swinv2_tiny_window8_256", {}),
    ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 4}),
    ("swin_tiny_patch4_window7_224", {"img_size": 32, "patch_size": 2, "window_size": 4}),
    ("swinv2_tiny_window8_256", {"img_size": 32, "patch_size": 2, "window_size": 4}),
    ("swinv2_tiny_window16_256", {"img_size": 128, "pretrained_window_sizes": (8, 8, 8, 8)}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "changes"), NAMED, ids=str)
@torch.no_grad()
def test_a_named_model_is_timms_of_that_name(name: str, changes: dict[str, Any]) -> None:
    theirs: nn.Module = shake(timm.create_model(name, **changes)).eval()
    ours = getattr(vitlab.models, name)(**changes).eval()
    ours.load_state_dict(theirs.state_dict())
    x = images(ours, batch=1)
    assert relative_error(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize(("global_pool", "rate", "kept"), [("avg", 0.3, 11), ("token", 0.99, 1)])
def test_patches_are_left_out_in_training_as_timms(global_pool: str, rate: float, kept: int) -> None:
    """The same patches of each image. (timm's distilled ViT may also leave out its second prefix token.)"""
    ours, theirs = (model.train() for model in pair_of("vit", patch_drop_rate=rate, global_pool=global_pool))
    x, logits = images(ours, batch=4), []
    for model in (ours, theirs):
        torch.manual_seed(1)
        logits.append(model(x))
    assert relative_error(*logits) < 1e-5
    assert ours.forward_features(x).patches.shape[1] == kept
    assert ours.eval().forward_features(x).patches.shape[1] == 16


def test_both_prefix_tokens_stay_when_patches_are_left_out() -> None:
    model = SMALL["deit"](patch_drop_rate=0.99).train()
    assert [part.shape[1] for part in model.forward_features(images(model))] == [2, 1]
