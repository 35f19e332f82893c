"""Exported files give what the model gives, for any number of images, and say what they were given to say."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from tests.models.small_models import images, relative_error, shake
from vitlab import Experiment, load
from vitlab.commands.dispatch import run
from vitlab.config import named
from vitlab.data import ImageDataModule, ImageFolder
from vitlab.deployment.card import Exported
from vitlab.deployment.export import TOLERANCE, export_onnx, write_timm_config
from vitlab.models import ImageModel, SwinTransformer, SwinTransformerV2, TimmModel, VisionTransformer
from vitlab.models.weights import save_weights

SHAPES = {"img_size": (14, 10), "patch_size": 2, "embed_dim": 8, "num_classes": 5}
# On maps of 7 × 5 tokens, padded and shifted, then 4 × 3, which are a single window.
WINDOWS = SHAPES | {"depths": (2, 1), "num_heads": (2, 2), "window_size": 4}
TIMM_SWIN = {"depths": (2,), "num_heads": (2,), "embed_dim": 8}
ONE_STAGE = WINDOWS | {"depths": (2,), "num_heads": (2,)}

MODELS: dict[str, Callable[[], ImageModel]] = {
    "vit": lambda: VisionTransformer(**SHAPES, depth=1, num_heads=2, global_pool="avg", init_values=0.1),
    "deit": lambda: VisionTransformer(**SHAPES, depth=1, num_heads=2, distilled=True, grad_checkpointing=True),
    "vit, batch norm": lambda: VisionTransformer(**SHAPES, depth=1, num_heads=2, norm="batch"),
    "registers": lambda: VisionTransformer(**SHAPES, depth=1, num_heads=2, reg_tokens=2, no_embed_class=True),
    "no class token": lambda: VisionTransformer(
        **SHAPES, depth=1, num_heads=2, class_token=False, global_pool="avg", fc_norm=False
    ),
    "no classes": lambda: VisionTransformer(**SHAPES | {"num_classes": 0}, depth=1, num_heads=2),
    "swin": lambda: SwinTransformer(**WINDOWS),
    "swinv2": lambda: SwinTransformerV2(**WINDOWS),
    "swinv2, linear": lambda: SwinTransformerV2(**ONE_STAGE, position_bias="linear"),
    "swinv2, table": lambda: SwinTransformerV2(**ONE_STAGE, position_bias="table"),
    "swin, absolute, no shifts": lambda: SwinTransformer(**ONE_STAGE, position_bias="absolute", shift=False),
    "swinv2, none": lambda: SwinTransformerV2(**ONE_STAGE, position_bias="none"),
    "timm": lambda: TimmModel("resnet10t", num_classes=5, img_size=32),
    "timm's swin": lambda: TimmModel("swin_tiny_patch4_window7_224", num_classes=5, model_kwargs=TIMM_SWIN),
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> ImageModel:
    return shake(MODELS[request.param]())  # type: ignore[return-value]


@torch.no_grad()
def eager(model: ImageModel, x: Tensor) -> Tensor:
    """Return what the model gives in evaluation, and leave it training, as it may be when it is exported."""
    logits = model.eval()(x)
    model.train()
    return logits


def onnx_logits(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0])


@pytest.mark.slow
def test_onnx_gives_the_models_logits_for_any_batch(model: ImageModel, tmp_path: Path) -> None:
    export_onnx(model, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]  # no second file for the weights
    for batch in (1, 3, 7):
        x = images(model, batch)
        assert relative_error(onnx_logits(tmp_path / "model.onnx", x), eager(model, x)) < TOLERANCE


class Normalized(ImageModel):
    """Has statistics that a forward in training changes, and may drop in evaluation too."""

    embed = None  # type: ignore[assignment]

    def __init__(self, restless: bool = False) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.img_size, self.in_chans = 32, 32, (4, 4), 2
        self.norm, self.restless = nn.BatchNorm2d(2), restless

    def forward(self, images: Tensor) -> Tensor:
        return F.dropout(self.norm(images).flatten(1), training=self.restless)


def test_an_exported_model_is_as_before_and_its_files_have_the_metadata(tmp_path: Path) -> None:
    model = Normalized().train()
    before, random = copy.deepcopy(model), torch.get_rng_state()
    facts = {"class_names": json.dumps(["chat", "été"], ensure_ascii=False), "image_size": "4"}
    export_onnx(model, tmp_path / "model.onnx", facts)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map == facts
    save_weights(model, tmp_path / "model.safetensors", facts)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == facts


@pytest.mark.slow(edge=True)
def test_a_file_that_gives_other_logits_is_refused_and_replaces_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("an earlier one")
    with pytest.raises(RuntimeError, match="off by"):
        export_onnx(Normalized(restless=True), tmp_path / "model.onnx")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]


@pytest.mark.slow(edge=True)
def test_calibrated_files_give_the_probabilities_of_the_best_temperature(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracles are scipy's minimum of the NLL over 1/T, in torch's own arithmetic, and torchmetrics' ECE."""
    monkeypatch.chdir(tmp_path)
    experiment = Experiment.load(trained)
    model, data = experiment.model.eval(), experiment.data
    with torch.no_grad():
        logits = {split: torch.cat([model(x) for (x,), _ in data.batches(split, "cpu")]) for split in ("val", "test")}
    labels = {split: torch.from_numpy(data.labels(split)) for split in logits}
    nll = {split: lambda b, split=split: F.cross_entropy(b * logits[split].double(), labels[split]) for split in logits}
    beta = minimize_scalar(lambda b: float(nll["val"](b)), bounds=(0.01, 100), method="bounded").x
    assert not 0.9 < beta < 1.1  # an epoch of training is far from calibrated

    given = ["--config", str(trained), "--out", "calibrated", "--format", "safetensors", "onnx", "--calibrate"]
    assert run("export", given) == 0
    pictures = data.raw_images("test", range(6))
    Path("new").mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture[..., 0]).save(f"new/{i}.png")
    assert run("predict", ["--config", "calibrated", "--images", "new", "--out", "seen"]) == 0
    expected = (beta * logits["test"][:6]).softmax(dim=1).numpy()
    table = load("calibrated").predict(pictures)
    for found in (table, np.genfromtxt("seen/predictions.csv", delimiter=",", skip_header=1)[:, 3:]):
        values = found if isinstance(found, np.ndarray) else found[[f"p_{name}" for name in data.class_names]]
        np.testing.assert_allclose(values, expected, atol=2e-4)
    x = torch.stack([data.preprocessing(picture) for picture in pictures])
    torch.testing.assert_close(
        onnx_logits(Path("calibrated/model.onnx"), x), beta * logits["test"][:6], atol=1e-3, rtol=1e-3
    )

    card = Path("calibrated/README.md").read_text()
    told = re.search(
        r"temperature (\S+), fitted .*? is (\S+)% instead of (\S+)%, the NLL (\S+) instead of (\S+)\.", card
    )
    assert told is not None
    ece = [
        float(multiclass_calibration_error((b * logits["test"]).softmax(1), labels["test"], 10, n_bins=15))
        for b in (beta, 1)
    ]
    want = [1 / beta, *(100 * each for each in ece), float(nll["test"](beta)), float(nll["test"](1))]
    np.testing.assert_allclose([float(each) for each in told.groups()], want, atol=0.06)
    assert ece[0] < ece[1]


# `config.json`: what timm makes of the folder gives what the run's model gives


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
