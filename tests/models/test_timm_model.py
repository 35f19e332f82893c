"""timm's models behind the common interface."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from tests.models.small_models import images
from vitlab import Experiment
from vitlab.commands.dispatch import run
from vitlab.models import TimmModel
from vitlab.models.weights import load_weights, save_weights

NAMES = [
    "resnet18",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "mobilenetv3_small_050",
]


@pytest.mark.parametrize("name", ["resnet18", "resnet18.a1_in1k"])
def test_weights_that_cannot_be_downloaded_are_refused_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def unreachable(url: str) -> None:
        asked.append(url)
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", unreachable)
    monkeypatch.setattr("timm.create_model", lambda *args, **kwargs: pytest.fail("it would try for half a minute"))
    with pytest.raises(ValueError, match=r"timm/resnet18.a1_in1k is not on this machine, and .* cannot be reached"):
        TimmModel(name, pretrained=True)
    assert len(asked) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_timm_model_is_an_image_model(name: str) -> None:
    model = TimmModel(name, num_classes=5, in_chans=1, img_size=32).eval()
    x = images(model)
    assert model(x).shape == (2, 5)
    assert torch.equal(model(x), model.net(x))
    assert model.embed(x).shape == (2, model.num_features)
    listed = [id(p) for group in model.parameters_by_depth() for p in group]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    assert len(model.parameters_by_depth()) > 5
    head = {id(p) for p in model.head_parameters()}
    assert head
    assert head <= {id(p) for p in model.parameters_by_depth()[-1]}
    assert model.no_weight_decay() <= {name for name, _ in model.named_parameters()}
    model.reset_classifier(3)
    assert model(x).shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_find_their_channels_last_and_give_what_timms_give(dtype: torch.dtype, tmp_path: Path) -> None:
    model = TimmModel("resnet18", num_classes=5).eval()
    theirs = timm.create_model("resnet18", num_classes=5).eval()
    theirs.load_state_dict(model.net.state_dict())
    x, tolerance = torch.randn(2, 3, 64, 64), {torch.float32: 1e-5, torch.bfloat16: 0.02}[dtype]
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16), torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), rtol=tolerance, atol=tolerance)
        maps = model.net.conv1(x)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    save_weights(model, tmp_path / "weights.safetensors")
    again = TimmModel("resnet18", num_classes=5, checkpoint_path=tmp_path / "weights.safetensors")
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert again.net.conv1.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_small_stem_looks_at_every_pixel_with_timms_weights() -> None:
    model, plain = (TimmModel("resnet18d", num_classes=5, small_stem=stem).eval() for stem in (True, False))
    model.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 32, 32)
    assert model.net.forward_features(x).shape == (1, 512, 4, 4)
    assert plain.net.forward_features(x).shape == (1, 512, 1, 1)
    stem = plain.net.conv1(torch.nn.functional.interpolate(x, scale_factor=2.0))
    assert model.net.act1(model.net.bn1(model.net.conv1(x))).shape[2:] == stem.shape[2:] == (32, 32)
    assert model.net.layer1(model.net.act1(model.net.bn1(model.net.conv1(x)))).shape[2:] == (32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet_micro_16", "convnext_micro_16"])
def test_a_small_convolutional_model_of_one_line_learns_digits(name: str, tiny: Callable[..., Path]) -> None:
    """In two epochs; at chance the accuracy is 10 %."""
    model = {"backbone": {"class_path": f"vitlab.models.{name}"}, "optimizer": {"init_args": {"lr": 4.0e-3}}}
    data, trainer = {"init_args": {"image_size": 16, "batch_size": 32}}, {"max_epochs": 2}
    path = tiny({"model": {"init_args": model}, "data": data, "trainer": trainer}, name)
    assert run("fit", ["--config", str(path)]) == 0
    metrics = json.loads(Path(f"runs/{name}/seed-0/summary.json").read_text())["metrics"]
    assert metrics["test/top1"] > 0.5
    trained = Experiment.load(f"runs/{name}/seed-0").model
    assert isinstance(trained, TimmModel)
    assert (trained.num_classes, trained.in_chans, trained.img_size) == (10, 1, (16, 16))


def test_a_vit_of_timms_does_not_decay_its_tokens() -> None:
    assert TimmModel("vit_tiny_patch16_224", img_size=32).no_weight_decay() == {"net.cls_token", "net.pos_embed"}


def test_size_and_normalization_are_those_of_timms_weights() -> None:
    model = TimmModel("vit_tiny_patch16_384", model_kwargs={"depth": 1})
    assert model.img_size == (384, 384)
    assert model.mean == model.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("resnet81", {}, "resnet18"),
        ("resnet18.a1_in1", {}, "a1_in1"),
        ("qqqqqqqqqqqqqq", {}, "no model"),
        ("vit_large_patch14_224", {"pretrained": True}, "No pretrained weights exist for vit_large_patch14_224"),
        ("resnet18", {"model_kwargs": {"window_size": 7}}, "window_size"),
        ("convnext_atto", {"small_stem": True}, "small_stem is for ResNets, not for ConvNeXt"),
    ],
)
def test_what_timm_does_not_have_is_refused(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        TimmModel(name, **settings)
    assert str(error.value).count("\n") < 5


def test_weights_come_from_a_file_and_a_head_of_other_size_stays_new(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18", num_classes=4).eval()
    save_weights(theirs, tmp_path / "resnet.safetensors")
    same = TimmModel("resnet18", num_classes=4, checkpoint_path=tmp_path / "resnet.safetensors").eval()
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(same(x), theirs(x))  # whose channels lie otherwise in memory
    other = TimmModel("resnet18", num_classes=6, checkpoint_path=tmp_path / "resnet.safetensors").eval()
    assert torch.equal(other.embed(x), same.embed(x))


@pytest.mark.slow
def test_importing_the_models_does_not_import_timm() -> None:
    code = "import sys, vitlab.models.weights; assert not {'timm', 'lightning', 'wandb'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "old"), [("vit_tiny_patch16_dinov3_qkvb", "gamma_1"), ("levit_128s", None)])
def test_own_names_and_other_classes_of_any_family_are_understood(name: str, old: str | None, tmp_path: Path) -> None:
    """DINOv3's layer scales have the names of DeiT III's files; LeViT's classifier is `head.linear`."""
    sizes: dict[str, Any] = {"model_kwargs": {"depth": 1}} if name.startswith("vit") else {}
    source = TimmModel(name, num_classes=4, **sizes)
    assert old is None or any(key.endswith(old) for key in source.state_dict())
    save_weights(source, tmp_path / "a.safetensors")
    report = load_weights(TimmModel(name, num_classes=4, **sizes), tmp_path / "a.safetensors")
    assert not report.missing
    report = load_weights(TimmModel(name, num_classes=6, **sizes), tmp_path / "a.safetensors")
    assert set(report.missing) == set(report.unexpected)
    assert all(key.startswith("head") for key in report.missing)
    bare = TimmModel(name, num_classes=0, **sizes)  # as in a pre-training
    assert all(key.startswith("head") for key in load_weights(bare, tmp_path / "a.safetensors").unexpected)
    save_weights(bare, tmp_path / "bare.safetensors")
    report = load_weights(source, tmp_path / "bare.safetensors")
    assert all(key.startswith("head") for key in report.missing)


def test_a_size_that_timm_does_not_take_is_refused_with_the_argument_that_lets_it() -> None:
    sizes: dict[str, Any] = {"num_classes": 2, "img_size": 64}
    depth = {"depth": 1}
    with pytest.raises(ValueError, match=r"VisionTransformer takes no images of 32 px .*dynamic_img_size or"):
        TimmModel("vit_tiny_patch16_224", model_kwargs=depth, **sizes).check(32)
    TimmModel("vit_tiny_patch16_224", model_kwargs={**depth, "dynamic_img_size": True}, **sizes).check(32)
    TimmModel("resnet18", num_classes=2).check(32)
