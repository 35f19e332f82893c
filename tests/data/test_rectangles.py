"""Photographs that a model sees as rectangles: evaluation as in timm, and everything after it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform

from tests.data.conftest import PhotoFolder, photos
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.data import Growth, MultiCrop
from vitlab.data.photos import central_crop

SIZE = (24, 40)


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (50, 200), (24, 40)])
@pytest.mark.parametrize("crop_pct", [0.875, 1.0])
def test_evaluation_covers_the_rectangle_as_timm_does(shape: tuple[int, int], crop_pct: float) -> None:
    """Smooth pictures, so that Pillow's rounding of a resize is all that may differ."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = 127 + 100 * np.sin(rows / 9)[..., None] * np.cos(columns / 7)[..., None] * np.array([1.0, 0.5, -0.7])
    pixels = waves.astype(np.uint8)
    transform = create_transform((3, *SIZE), crop_pct=crop_pct, interpolation="bicubic", mean=(0, 0, 0), std=(1, 1, 1))
    expected = 255 * transform(Image.fromarray(pixels))
    found = central_crop(pixels, SIZE, crop_pct, "bicubic").float()
    assert found.shape == (3, *SIZE)
    assert (found - expected).abs().max() <= 2


def test_training_images_are_rectangles_too(photo_folder: PhotoFolder) -> None:
    data = photos(photo_folder({"a": 8, "b": 8}), image_size=SIZE)
    (views, _), _ = data.training_batch(0, 0, torch.device("cpu"))
    assert views[0].shape == (4, 3, *SIZE)
    picture = Image.new("RGB", (90, 50), "red")
    assert data.preprocessing(picture).shape == (3, *SIZE)


def test_what_needs_a_square_says_so(photo_folder: PhotoFolder) -> None:
    root = photo_folder({"a": 8, "b": 8})
    with pytest.raises(ValueError, match="only squares grow"):
        photos(root, image_size=SIZE, grow=Growth(start=16, step=8))
    with pytest.raises(ValueError, match=r"global_crops\.size"):
        photos(root, image_size=SIZE, multi_crop=MultiCrop()).setup("fit")


BACKBONES = {
    "VisionTransformer": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
    "SwinTransformerV2": {"patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BACKBONES)
def test_a_model_of_rectangles_is_trained_drawn_exported_and_predicts(
    name: str, tiny: Callable[..., Path], photo_folder: PhotoFolder
) -> None:
    root = photo_folder({"train/a": 8, "train/b": 8, "val/a": 4, "val/b": 4})
    path = tiny({}, "wide")
    data = ["--data", "ImageFolder", "--data.root", str(root), "--data.image_size", "[24,40]", "--data.batch_size", "4"]
    given = [f"--model.backbone.{key}={json.dumps(value)}" for key, value in BACKBONES[name].items()]
    model = ["--model.backbone", f"vitlab.models.{name}", *given]
    assert run("fit", ["--config", str(path), *data, *model, "--data.num_workers", "0"]) == 0
    config = "runs/wide/seed-0/config.yaml"
    assert load_yaml(Path(config))["data"]["init_args"]["image_size"] == [24, 40]
    assert run("visualize", ["--config", config, "--out", "pictures"]) == 0
    assert run("export", ["--config", config, "--format", "safetensors"]) == 0
    card = Path("runs/wide/seed-0/export/README.md").read_text()
    assert "float32 images (B, 3, 24, 40)" in card
    assert 'images = vitlab.load(".").transform(Image.open' in card
    assert run("predict", ["--config", config, "--images", str(root / "val"), "--out", "named"]) == 0
    assert run("benchmark", ["--config", config]) == 0
