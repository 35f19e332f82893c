"""`config.json` of an export: what timm makes of the folder gives what the run's model gives, or there is no file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from tests.models.small_models import shake
from vitlab.commands.dispatch import run
from vitlab.config import named
from vitlab.data import ImageDataModule, ImageFolder
from vitlab.deployment.card import Exported
from vitlab.deployment.export import write_timm_config
from vitlab.models import VisionTransformer
from vitlab.models.weights import save_weights

SMALL = {"img_size": 32, "in_chans": 3, "num_classes": 4}
VIT = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
SWIN = {"patch_size": 2, "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}


class MyNet(VisionTransformer):
    """An architecture of a user's own."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory with four folders of photographs; return where to export."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    for name in ("a", "<b>", "c", "d"):
        Path("photos", name).mkdir(parents=True)
        Image.fromarray(pixels).resize((90, 60), Image.Resampling.BICUBIC).save(Path("photos", name, "1.png"))
    return tmp_path


def exported(backbone: str, arguments: dict[str, Any], data: ImageDataModule, folder: Path) -> Exported:
    """Write the weights of a model, none of which is at its initial value."""
    path = backbone if "." in backbone else f"vitlab.models.{backbone}"
    config = {"class_path": path, "init_args": SMALL | arguments}
    model = shake(named(path)(**SMALL | arguments)).eval()
    whole = {"model": {"class_path": "vitlab.objectives.Supervised", "init_args": {"backbone": config}}}
    save_weights(model, folder / "model.safetensors", {})
    return Exported(model, data, folder, whole, None, averaged=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("backbone", "arguments", "architecture"),
    [
        ("VisionTransformer", VIT | {"reg_tokens": 2, "init_values": 1e-5}, "vit_base_patch16_224"),
        ("VisionTransformer", VIT | {"class_token": False, "global_pool": "avg"}, "vit_base_patch16_224"),
        ("VisionTransformer", VIT | {"distilled": True}, "deit_base_distilled_patch16_224"),
        ("VisionTransformer", VIT | {"num_classes": 0}, "vit_base_patch16_224"),
        ("SwinTransformer", SWIN, "swin_tiny_patch4_window7_224"),
        ("SwinTransformerV2", SWIN, "swinv2_tiny_window8_256"),
        ("deit_tiny_distilled_patch16_224", {"patch_size": 8, "depth": 2}, "deit_tiny_distilled_patch16_224"),
        ("swinv2_tiny_window8_256", {"patch_size": 2, "depths": (1, 1, 1, 1)}, "swinv2_tiny_window8_256"),
        ("TimmModel", {"name": "resnet10t"}, "resnet10t"),
        ("TimmModel", {"name": "convnext_atto", "model_kwargs": {"patch_size": 2}}, "convnext_atto"),
    ],
    ids=str,
)
@torch.no_grad()
def test_timm_gives_our_logits_for_a_picture_that_it_frames_itself(
    backbone: str, arguments: dict[str, Any], architecture: str, folder: Path
) -> None:
    data = ImageFolder(root="photos", image_size=32, crop_pct=0.875)
    ours = exported(backbone, arguments, data, folder)
    assert write_timm_config(ours, folder) == folder / "config.json"
    config = json.loads((folder / "config.json").read_text())
    assert config["architecture"] == architecture
    assert config["num_features"] == ours.encoder.num_features
    theirs: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs))
    with Image.open("photos/a/1.png") as picture:
        images = transform(picture)[None]
        expected = ours.encoder(data.preprocessing(picture)[None])
    assert (theirs(images) - expected).abs().max() < 1e-4 * expected.abs().max()  # a level of a pixel is 1e-2
    if ours.encoder.num_classes:
        assert theirs.pretrained_cfg["label_names"] == data.class_names
    else:
        assert "label_names" not in config


def test_a_named_model_states_only_what_differs(folder: Path) -> None:
    data = ImageFolder(root="photos", image_size=32)
    ours = exported("vit_tiny_patch16_224", {"depth": 1, "drop_path_rate": 0.1}, data, folder)
    assert write_timm_config(ours, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["model_args"] == {"img_size": [32, 32], "depth": 1}


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        (f"{__name__}.MyNet", VIT),
        ("VisionTransformer", VIT | {"norm": "batch"}),
        ("SwinTransformer", SWIN | {"shift": False}),
        ("SwinTransformer", SWIN | {"position_bias": "absolute"}),
        ("SwinTransformerV2", SWIN | {"position_bias": "table"}),
        ("resnet_micro_16", {}),
    ],
    ids=str,
)
def test_what_timm_has_not_gets_no_config_and_an_old_one_goes(
    backbone: str, arguments: dict[str, Any], folder: Path
) -> None:
    (folder / "config.json").write_text("{}")
    ours = exported(backbone, arguments, ImageFolder(root="photos", image_size=32), folder)
    assert write_timm_config(ours, folder) is None
    assert not (folder / "config.json").exists()


@pytest.mark.parametrize("crop_pct", [None, 0.875])
def test_rectangles_get_it_where_timm_frames_them_alike(crop_pct: float | None, folder: Path) -> None:
    data = ImageFolder(root="photos", image_size=(32, 48), crop_pct=crop_pct)
    ours = exported("VisionTransformer", VIT | {"img_size": (32, 48)}, data, folder)
    assert write_timm_config(ours, folder)
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert config["input_size"] == [3, 32, 48]
    assert config["crop_mode"] == ("center" if crop_pct else "squash")


@pytest.mark.slow
def test_the_command_writes_it_and_tells_the_card(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--config", str(trained), "--out", "out", "--format"]
    assert run("export", [*given, "onnx"]) == 0
    assert not Path("out/config.json").exists()
    assert "local-dir" not in Path("out/README.md").read_text()
    assert run("export", [*given, "safetensors"]) == 0
    assert "out/config.json" in capsys.readouterr().out
    assert 'timm.create_model("local-dir:.", pretrained=True)' in Path("out/README.md").read_text()
