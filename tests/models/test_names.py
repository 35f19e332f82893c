"""Weights of torchvision and mmpretrain: the oracle is torchvision's own model, and mmpretrain's source."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer as TorchvisionViT
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from tests.models.small_models import SMALL, images, relative_error, shake
from vitlab.models import Backbone, TimmModel
from vitlab.models.names import with_timm_names
from vitlab.models.swin import PatchMerging
from vitlab.models.weights import load_weights

State = dict[str, Tensor]


def torchvisions(family: str) -> nn.Module:
    """Return torchvision's model of the same shape, of random weights."""
    if family == "vit":
        return TorchvisionViT(16, 4, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=96, num_classes=5)
    sizes: dict[str, Any] = {"depths": [2, 2, 2], "num_heads": [1, 2, 4], "embed_dim": 8, "num_classes": 5}
    of_v2 = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if family == "swinv2" else {}
    return TorchvisionSwin([2, 2], window_size=[4, 4], **sizes, **of_v2)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("family", ["vit", "swin", "swinv2"])
def test_torchvisions_weights_give_torchvisions_outputs(family: str, prefix: str, tmp_path: Path) -> None:
    ours, theirs = SMALL[family]().eval(), shake(torchvisions(family)).eval()
    torch.save({"model": {prefix + name: x for name, x in theirs.state_dict().items()}}, tmp_path / "theirs.pth")
    report = load_weights(ours, tmp_path / "theirs.pth")
    assert sorted(report.matched) == sorted(ours.state_dict())
    assert [*report.resized, *report.missing, *report.unexpected, *report.beside] == []
    x = images(ours)
    assert relative_error(ours(x), theirs(x)) < 1e-5


def test_torchvisions_earlier_names_of_the_mlp_are_understood(tmp_path: Path) -> None:
    """Its own loader still reads them (vision_transformer.py: MLPBlock)."""
    ours, theirs = SMALL["vit"]().eval(), shake(torchvisions("vit")).eval()
    state = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): x
        for name, x in theirs.state_dict().items()
    }
    torch.save(state, tmp_path / "theirs.pth")
    load_weights(ours, tmp_path / "theirs.pth")
    x = images(ours)
    assert relative_error(ours(x), theirs(x)) < 1e-5


def test_torchvisions_positions_and_classifier_are_resized_and_left_out_as_others_are(tmp_path: Path) -> None:
    torch.save(shake(torchvisions("vit")).state_dict(), tmp_path / "theirs.pth")
    report = load_weights(SMALL["vit"](img_size=24, num_classes=2), tmp_path / "theirs.pth")
    assert report.resized == {"pos_embed": ((1, 17, 24), (1, 37, 24))}
    assert report.missing == report.unexpected == ["head.weight", "head.bias"]
    with pytest.raises(ValueError, match="does not fit VisionTransformer"):
        load_weights(SMALL["vit"](depth=2), tmp_path / "theirs.pth")


def unfold_order(x: Tensor) -> Tensor:
    """Return merging weights in mmpretrain's order, as its converters write them (swin2mmseg: correct_unfold_…)."""
    return x.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].mT.flatten(-2)


def mmpretrains(model: Backbone) -> State:
    """Return a model's weights as mmpretrain names them (its models/backbones, models/heads, model_converters)."""
    rules = {
        r"^patch_embed\.proj\.": "patch_embed.projection.",
        r"mlp\.fc1\.": "ffn.layers.0.0.",
        r"mlp\.fc2\.": "ffn.layers.1.",
    }
    of_vit = {
        r"^blocks\.(\d+)\.norm": r"layers.\1.ln",
        r"^blocks\.": "layers.",
        r"^norm\.": "ln1.",
        r"^fc_norm\.": "ln2.",
        r"ls1\.gamma$": "attn.gamma1.weight",
        r"ls2\.gamma$": "ffn.gamma2.weight",
        r"^(head|head_dist)\.": r"head.layers.\1.",
    }
    of_swin = {
        r"\.attn\.": ".attn.w_msa.",
        r"^layers\.": "stages.",
        r"^norm\.": "norm2.",
        r"^pos_embed$": "absolute_pos_embed",
    }
    swin = hasattr(model, "layers")
    state: State = {}
    for name, x in model.state_dict().items():
        if type(model).__name__ == "SwinTransformer":  # merges at the end of a stage, and normalizes before
            name, old = (
                re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name),
                name,
            )
            x = unfold_order(x) if "downsample" in old else x
        elif name.endswith("downsample.reduction.weight"):
            x = unfold_order(x)
        for pattern, new in (rules | (of_swin if swin else of_vit)).items():
            name = re.sub(pattern, new, name)
        state[name if name.startswith("head") else f"backbone.{name}"] = x
    return state


MMPRETRAIN: dict[str, Any] = {
    "vit": ("vit", {}),
    "deit": ("deit", {}),
    "DeiT III": ("vit", {"no_embed_class": True, "init_values": 0.1}),
    "MAE, fine-tuned": ("vit", {"global_pool": "avg"}),
    "swin": ("swin", {}),
    "swin with absolute positions": ("swin", {"position_bias": "absolute"}),
    "swinv2": ("swinv2", {}),
}


@pytest.mark.parametrize("kind", MMPRETRAIN)
def test_mmpretrains_weights_are_understood(kind: str, tmp_path: Path) -> None:
    family, changes = MMPRETRAIN[kind]
    source, model = (shake(SMALL[family](**changes)).eval() for _ in range(2))
    state = mmpretrains(source)  # type: ignore[arg-type]
    state["neck.mask_token"] = torch.zeros(1)  # what a pre-training has beside the encoder
    if family == "swin":
        state["backbone.stages.0.blocks.1.attn.w_msa.relative_position_index"] = torch.zeros(3, 3)
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "theirs.pth")
    report = load_weights(model, tmp_path / "theirs.pth")
    assert (report.prefix, report.beside) == ("backbone.", ["neck"])
    assert sorted(report.matched) == sorted(model.state_dict())
    x = images(model)
    assert torch.equal(model(x), source(x))


def test_an_encoder_of_mmpretrain_alone_is_understood(tmp_path: Path) -> None:
    source, model = (shake(SMALL["swin"](num_classes=0)).eval() for _ in range(2))
    state = {name.removeprefix("backbone."): x for name, x in mmpretrains(source).items()}  # type: ignore[arg-type]
    torch.save(state, tmp_path / "theirs.pth")
    assert load_weights(model, tmp_path / "theirs.pth").prefix == ""
    x = images(model)
    assert torch.equal(model(x), source(x))


def test_patches_are_merged_as_by_mmpretrains_unfold() -> None:
    """mmcv's and mmpretrain's PatchMerging: nn.Unfold(2, stride=2), norm, reduction."""
    norm, reduction = shake(nn.LayerNorm(24)), nn.Linear(24, 12, bias=False)
    assert isinstance(norm, nn.LayerNorm)
    x = torch.randn(2, 4, 6, 6)  # (B, H, W, C)
    theirs = reduction(norm(nn.functional.unfold(x.permute(0, 3, 1, 2), 2, stride=2).mT))  # (B, N, 2·C)
    state = {f"stages.0.downsample.norm.{name}": value for name, value in norm.state_dict().items()}
    state |= {
        "stages.0.downsample.reduction.weight": reduction.weight.detach(),
        "stages.0.blocks.0.ffn.layers.0.0.weight": x,
    }
    ours = PatchMerging(6)
    named = {n.removeprefix("layers.0.downsample."): y for n, y in with_timm_names(state).items() if "downsample" in n}
    ours.load_state_dict(named)
    torch.testing.assert_close(ours(x).flatten(1, 2), theirs)


@pytest.mark.parametrize("in_chans", [1, 2, 4, 6])
@pytest.mark.parametrize("family", ["vit", "swin", "swinv2"])
def test_another_number_of_channels_is_taken_as_timm_does(family: str, in_chans: int, tmp_path: Path) -> None:
    source = shake(SMALL[family]())
    save_file({name: x.contiguous() for name, x in source.state_dict().items()}, tmp_path / "colors.safetensors")
    model = SMALL[family](in_chans=in_chans)
    report = load_weights(model, tmp_path / "colors.safetensors")
    assert list(report.resized) == ["patch_embed.proj.weight"]
    expected = timm.models.adapt_input_conv(in_chans, source.state_dict()["patch_embed.proj.weight"].clone())
    assert torch.equal(model.state_dict()["patch_embed.proj.weight"], expected)


def test_gray_images_give_what_they_give_in_three_channels(tmp_path: Path) -> None:
    source, gray = shake(SMALL["vit"]()).eval(), SMALL["vit"](in_chans=1).eval()
    save_file({name: x.contiguous() for name, x in source.state_dict().items()}, tmp_path / "colors.safetensors")
    load_weights(gray, tmp_path / "colors.safetensors")
    x = images(gray)
    assert relative_error(gray(x), source(x.expand(-1, 3, -1, -1))) < 1e-5


def test_timms_models_take_another_number_of_channels_from_a_file(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet10t", num_classes=3)
    save_file({name: x.contiguous() for name, x in theirs.state_dict().items()}, tmp_path / "colors.safetensors")
    model = TimmModel("resnet10t", num_classes=3, in_chans=5, checkpoint_path=tmp_path / "colors.safetensors")
    wanted: Any = timm.create_model("resnet10t", num_classes=3, in_chans=5)
    cfg = {"file": str(tmp_path / "colors.safetensors"), "first_conv": "conv1.0", "classifier": "fc", "num_classes": 3}
    timm.models.load_pretrained(wanted, cfg | {"input_size": (3, 224, 224)}, 3, 5)
    assert torch.equal(model.net.conv1[0].weight, wanted.conv1[0].weight)
