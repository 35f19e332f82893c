"""Exported files give what the model gives, for any number of images, and say what they were given to say."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from tests.models.small_models import images, relative_error, shake
from vitlab.deployment.export import TOLERANCE, export_onnx
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


def test_an_exported_model_is_as_before(tmp_path: Path) -> None:
    model = Normalized().train()
    before, random = copy.deepcopy(model), torch.get_rng_state()
    export_onnx(model, tmp_path / "model.onnx")
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_metadata_lie_in_the_files(tmp_path: Path) -> None:
    facts = {"class_names": json.dumps(["chat", "été"], ensure_ascii=False), "image_size": "4"}
    export_onnx(Normalized(), tmp_path / "model.onnx", facts)
    assert onnxruntime.InferenceSession(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map == facts
    save_weights(Normalized(), tmp_path / "model.safetensors", facts)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == facts


def test_a_file_that_gives_other_logits_is_refused_and_replaces_none(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("an earlier one")
    with pytest.raises(RuntimeError, match="off by"):
        export_onnx(Normalized(restless=True), tmp_path / "model.onnx")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["an earlier one"]
