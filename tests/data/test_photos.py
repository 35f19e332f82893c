"""Distortions of photographs, against timm's pipelines."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import rand_augment_transform

from tests.data.conftest import PhotoFolder, photos
from vitlab.commands.dispatch import run
from vitlab.config import load_yaml
from vitlab.data import Growth, MultiCrop
from vitlab.data.augment import BOX_DRAWS, CROP_RATIO, CROP_SCALE, crop_box
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.decoding import decode, read_regular
from vitlab.data.photos import (
    PhotoAugment,
    central_crop,
    half_will_do,
    make_rand_augment,
    random_crop,
    resized_box,
    seeded,
)

_MEAN = (0.485, 0.456, 0.406)


def _photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def _assert_equal_to_rounding(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Pillow and torch round differently between a resize's two passes; a shift by one pixel would be 10 or more."""
    assert ours.dtype == torch.uint8
    assert (ours.int() - expected.int()).abs().float().mean() < 0.3  # of 255


@pytest.mark.parametrize("size", [(400, 533), (533, 400), (301, 301), (97, 1000), (50, 40)])
@pytest.mark.parametrize(("image_size", "crop_pct"), [(224, 0.875), (64, 0.9), (32, 1.0)])
def test_evaluation_equals_timms(size: tuple[int, int], image_size: int, crop_pct: float) -> None:
    timm = create_transform(image_size, is_training=False, interpolation="bicubic", crop_pct=crop_pct, normalize=False)
    photo = _photo(*size)
    ours = central_crop(np.array(photo), image_size, crop_pct, "bicubic")
    _assert_equal_to_rounding(ours, timm(photo))


@pytest.mark.parametrize("size", [(400, 533), (301, 301)])
def test_squashed_evaluation_equals_timms(size: tuple[int, int]) -> None:
    timm = create_transform(
        64, is_training=False, interpolation="bicubic", crop_pct=1.0, crop_mode="squash", normalize=False
    )
    photo = _photo(*size)
    _assert_equal_to_rounding(central_crop(np.array(photo), 64, None, "bicubic"), timm(photo))


@pytest.mark.parametrize("size", [(900, 700), (701, 901)])
def test_a_large_jpeg_is_read_at_half_its_size_where_the_crop_stays_large(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    # Twice as large as the result after being halved. What is seen is the same part, to 41 decibels from Pillow's.
    width, height = size
    _photo(width, height).save(tmp_path / "a.jpg", quality=90, subsampling=0)  # colors as sharp as no camera's
    even = np.pad(decode(read_regular(tmp_path / "a.jpg")), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    halved = 0
    for draw in Draws(0, 0, torch.arange(20)).uniform(Stream.CROP, BOX_DRAWS).tolist():
        pixels = decode(read_regular(tmp_path / "a.jpg"), half=half_will_do(draw, 96, PhotoAugment()))
        _, _, *sides = crop_box(draw, height, width, CROP_SCALE, CROP_RATIO)
        assert pixels.shape[:2] == (((height + 1) // 2, (width + 1) // 2) if min(sides) >= 384 else (height, width))
        if pixels.shape[0] < height:
            halved += 1
            top, left, tall, wide = (2 * x for x in crop_box(draw, *pixels.shape[:2], CROP_SCALE, CROP_RATIO))
            part = Image.fromarray(even[top : top + tall, left : left + wide])
            expected = part.resize((96, 96), Image.Resampling.BICUBIC)
            ours = random_crop(pixels, draw, 96, PhotoAugment()).permute(1, 2, 0).numpy()
            assert np.square(ours - np.asarray(expected).astype(float)).mean() < 255**2 / 10**4.1
    assert 5 < halved < 20


@pytest.mark.parametrize("size", [(400, 533), (170, 128)])
def test_random_crop_of_a_file_is_pillows_to_54_decibels(tmp_path: Path, size: tuple[int, int]) -> None:
    _photo(*size).save(tmp_path / "a.jpg", quality=90)
    pixels = decode(read_regular(tmp_path / "a.jpg"))
    for draw in Draws(0, 0, torch.arange(20)).uniform(Stream.CROP, BOX_DRAWS).tolist():
        top, left, height, width = crop_box(draw, size[1], size[0], CROP_SCALE, CROP_RATIO)
        with Image.open(tmp_path / "a.jpg") as stored:
            part = stored.crop((left, top, left + width, top + height))
        expected = np.asarray(part.resize((224, 224), Image.Resampling.BICUBIC))
        ours = random_crop(pixels, draw, 224, PhotoAugment()).permute(1, 2, 0).numpy()
        assert np.square(ours - expected.astype(float)).mean() < 255**2 / 10**5.4  # one value in four, by one


def test_rand_augment_equals_timms_where_timm_does_not_crash() -> None:
    # The same generators, the same description and the parameters of timm's own pipeline: the same pictures.
    settings = PhotoAugment()
    assert settings.rand_augment is not None
    ours = make_rand_augment(settings, 64, _MEAN)
    assert ours is not None
    parameters = {
        "translate_const": int(64 * 0.45),
        "img_mean": tuple(min(255, round(255 * x)) for x in _MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    timm = rand_augment_transform(settings.rand_augment, parameters)
    compared = 0
    for seed in range(200):
        with seeded(seed):
            mine = np.asarray(ours(_photo(64, 64)))
        with seeded(seed):
            try:
                theirs = np.asarray(timm(_photo(64, 64)))
            except ValueError:  # the posterize crash: below
                continue
        assert np.array_equal(mine, theirs)
        compared += 1
    assert compared > 190


@pytest.mark.parametrize("text", ["rand-x9", "augmix-m3", "", "rand-m9-inc", "rand-m9-tfoo", "rand-m9 -inc1"])
def test_description_that_timm_does_not_understand_is_refused(text: str) -> None:
    # timm takes no notice of `-inc` and `-tfoo`: the run would use other operations than its configuration says.
    with pytest.raises(ValueError, match="write rand and any of"):
        PhotoAugment(rand_augment=text)


def test_seeding_one_image_leaves_no_trace() -> None:
    # Without workers the training process augments: dropout must continue as if nothing had happened.
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    expected = [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    inside = []
    with suppress(RuntimeError), seeded(7):
        inside = [random.random(), np.random.rand(), torch.rand(1).item()]  # noqa: NPY002
        raise RuntimeError  # also when the image cannot be distorted
    assert [random.random(), np.random.rand(), torch.rand(1).item()] == expected  # noqa: NPY002
    with seeded(7):
        assert [random.random(), np.random.rand(), torch.rand(1).item()] == inside  # noqa: NPY002


def test_without_a_low_pass_filter_two_pixels_of_eight_are_seen() -> None:
    """tf.image.resize with antialias=False: the new centers are at 1.5 and 5.5, between pixels 1 and 2, 5 and 6."""
    image = np.repeat(np.array([9, 10, 30, 99, 99, 100, 200, 9], dtype=np.uint8)[None, :, None], 8, axis=0)
    box, settings = (0, 0, 8, 8), PhotoAugment(interpolation="bilinear", antialias=False)
    seen = resized_box(image, box, 2, settings.interpolation, settings.antialias)
    assert seen[0].tolist() == [[20, 150], [20, 150]]
    assert resized_box(image, box, 2, "bilinear")[0].tolist() != seen[0].tolist()
    wide = [0.5] * 64
    assert not half_will_do(wide, 8, settings)(4000, 4000)


def test_area_averages_the_pixels_under_each_new_one_in_proportion() -> None:
    image = np.array([[30, 60, 90], [30, 60, 90], [120, 150, 180]], dtype=np.uint8)[:, :, None]
    seen = central_crop(image, 2, None, "area")  # weights 2/3 and 1/3 on either side
    rows = np.array([[2, 1, 0], [0, 1, 2]]) / 3
    assert seen[0].tolist() == (rows @ image[..., 0] @ rows.T).round().astype(int).tolist()
    photo = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    whole = F.avg_pool2d(torch.from_numpy(photo).permute(2, 0, 1).float(), 2).round().to(torch.uint8)
    assert torch.equal(central_crop(photo, 4, 1.0, "area"), whole[..., 1:5])


# Images that are rectangles


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
