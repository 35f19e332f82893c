"""Named models: timm's sizes, a class's signature, and what the command line makes of them."""

import inspect
from typing import Any

import pytest
import timm
import torch
import yaml
from jsonargparse import ArgumentParser
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import vitlab.models
from vitlab.models import Backbone, ImageModel, SwinTransformer
from vitlab.models.swin import PreNormBlock
from vitlab.models.swin_v2 import ResPostNormBlock

NAMES = [name for name in vitlab.models.__all__ if name[0].islower()]  # classes begin with a capital

CONVOLUTIONAL = [name for name in NAMES if name.startswith(("resnet", "convnext"))]
SMALL = [name for name in NAMES if name.endswith(("_32", "_64"))]  # of our own: timm has no sizes for small images


@pytest.mark.parametrize("name", sorted(set(NAMES) - {*SMALL, *CONVOLUTIONAL}))
def test_every_name_is_timms_model_of_that_name(name: str) -> None:
    # On the meta device: shapes of all parameters without memory for them. 1000 classes also where timm's weights of
    # that name were trained on ImageNet-22k or, by DINO, on none.
    with torch.device("meta"):
        ours, theirs = getattr(vitlab.models, name)(), timm.create_model(name, num_classes=1000)
    assert {n: p.shape for n, p in ours.state_dict().items()} == {n: p.shape for n, p in theirs.state_dict().items()}
    cfg: Any = timm.get_pretrained_cfg(name)
    assert ours.img_size == cfg.input_size[1:]
    # What shapes do not show.
    blocks = [[module for module in model.modules() if hasattr(module, "attn")] for model in (ours, theirs)]
    assert [settings(block) for block in blocks[0]] == [timms_settings(block) for block in blocks[1]]
    for kind, setting in ((nn.LayerNorm, "eps"), (nn.Dropout, "p")):
        values = [{getattr(m, setting) for m in model.modules() if isinstance(m, kind)} for model in (ours, theirs)]
        assert values[0] == values[1]
    assert getattr(ours, "global_pool", "avg") == theirs.global_pool


def settings(block: Any) -> list[Any]:
    """Return heads and drop path, of Swins the window and its shift, of Swin v2 the window trained on."""
    found = [block.attn.num_heads, round(block.drop_path.rate, 6)]
    if isinstance(block, PreNormBlock | ResPostNormBlock):
        found += [block.attn.window, block.shift]
    return [*found, block.attn.cpb_mlp.pretrained_window] if isinstance(block, ResPostNormBlock) else found


def timms_settings(block: Any) -> list[Any]:
    found = [block.attn.num_heads, round(getattr(block.drop_path1, "drop_prob", 0.0), 6)]  # an Identity without
    if isinstance(block, SwinTransformerBlock | SwinTransformerV2Block):
        found += [tuple(block.attn.window_size), tuple(block.shift_size)]
    return [*found, block.attn.pretrained_window_size] if isinstance(block, SwinTransformerV2Block) else found


@pytest.mark.parametrize("name", SMALL)
def test_models_for_small_images_cost_the_same(name: str) -> None:
    # What makes them comparable; docs/results.md states the figures.
    with torch.device("meta"):
        model = getattr(vitlab.models, name)(num_classes=10).eval()
        images = torch.empty(1, 3, *model.img_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    assert counter.get_total_flops() / 2 == pytest.approx(0.363e9, rel=0.03)
    assert f"_{model.img_size[0]}" in name
    assert name in CONVOLUTIONAL or f"patch{model.patch_size}" in name
    assert not timm.is_model(name)


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("resnet_mini_32", 6.97e6, 0.371e9),
        ("convnext_mini_32", 7.05e6, 0.371e9),
        ("resnet_micro_16", 0.158e6, 3.79e6),
        ("convnext_micro_16", 0.187e6, 3.55e6),
    ],
)
def test_convolutional_models_for_small_images_keep_their_resolution(name: str, parameters: float, macs: float) -> None:
    """docs/results.md states the figures."""
    with torch.device("meta"):
        model = getattr(vitlab.models, name)(num_classes=10, in_chans=1 if "micro" in name else 3).eval()
        side = model.img_size[0]
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, model.in_chans, side, side))
        maps = model.net.forward_features(torch.empty(2, model.in_chans, side, side))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.005)
    assert counter.get_total_flops() / 2 == pytest.approx(macs, rel=0.005)
    assert maps.shape == (2, model.num_features, side // 8, side // 8)


def test_names_are_their_own() -> None:
    for name in NAMES:
        function = getattr(vitlab.models, name)
        assert (function.__name__, function.__qualname__) == (name, name)
        assert getattr(inspect.getmodule(function), name) is function


def test_a_named_size_has_the_signature_of_its_class_with_its_own_defaults() -> None:
    ours = inspect.signature(vitlab.models.swin_base_patch4_window12_384)
    cls = inspect.signature(SwinTransformer)
    assert list(ours.parameters) == list(cls.parameters)
    assert ours.return_annotation is SwinTransformer
    changed = {name: p.default for name, p in ours.parameters.items() if p.default != cls.parameters[name].default}
    assert changed == {
        "img_size": 384,
        "window_size": 12,
        "embed_dim": 128,
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
    }
    assert all(p.annotation is cls.parameters[name].annotation for name, p in ours.parameters.items())


@pytest.fixture(params=[Backbone, ImageModel], ids=lambda base: base.__name__)
def parser(request: pytest.FixtureRequest) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--backbone", type=request.param)
    return parser


@pytest.mark.parametrize(
    ("class_path", "init_args"),
    [
        ("vitlab.models.swinv2_tiny_window8_256", {"img_size": 64, "num_classes": 7, "depths": [1, 1, 1, 1]}),
        ("vitlab.models.VisionTransformer", {"img_size": [32, 64], "depth": 1, "init": "vitlab.models.layers.fan_in"}),
        (
            "vitlab.models.SwinTransformer",
            {
                "img_size": 32,
                "patch_size": 2,
                "window_size": [4, 4, 4, 2],
                "depths": [1, 1, 1, 1],
                "block": "vitlab.models.swin_v2.ResPostNormBlock",
                "attention": "vitlab.models.swin.CosineAttention",
            },
        ),
        ("vitlab.models.SwinTransformerV2", {"depths": [1, 1, 1, 1], "position_bias": "linear", "shift": False}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_yaml_builds_a_model_and_its_dump_builds_the_same(
    parser: ArgumentParser, class_path: str, init_args: dict[str, Any]
) -> None:
    config = parser.parse_object({"backbone": {"class_path": class_path, "init_args": init_args}})
    dumped = parser.dump(config)
    assert yaml.safe_load(dumped)["backbone"]["init_args"].items() >= init_args.items()
    again = parser.parse_string(dumped)
    assert parser.dump(again) == dumped
    first, second = (parser.instantiate_classes(c).backbone for c in (config, again))
    assert type(first) is type(second)
    assert {n: p.shape for n, p in first.state_dict().items()} == {n: p.shape for n, p in second.state_dict().items()}


def test_defaults_of_a_named_size_reach_the_configuration(parser: ArgumentParser) -> None:
    config = parser.parse_args(["--backbone=vitlab.models.swinv2_base_window12to24_192to384"])
    arguments = config.backbone.init_args
    assert (arguments.img_size, arguments.window_size) == (384, 24)
    assert arguments.pretrained_window_sizes == (12, 12, 12, 6)
