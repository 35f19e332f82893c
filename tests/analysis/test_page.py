"""`visualize`: every picture of several runs in one page that stands alone, and what it refuses."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlab.commands import run

Write = Callable[..., Path]
SWIN = {
    "class_path": "vitlab.models.SwinTransformerV2",
    "init_args": {"patch_size": 1, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4},
}


def train(tiny: Write, name: str, *changes: str, backbone: object = None) -> str:
    """Train for two steps and return the run's configuration."""
    path = tiny({"model": {"init_args": {"backbone": backbone}}} if backbone else {}, name)
    short = ["--trainer.limit_train_batches", "2", "--run.test", "false"]
    assert run("fit", ["--config", str(path), *short, *changes]) == 0
    return f"runs/{name}/seed-0/config.yaml"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of noise, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "c.png", "d.png", "e.png", "more/f.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.png").write_text("nor this")
    return folder


@pytest.mark.slow
def test_runs_are_drawn_side_by_side(tiny: Write, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [train(tiny, "vit"), train(tiny, "swin", backbone=SWIN)]
    assert run("visualize", ["--config", *configs, "--out", "out"]) == 0
    shared = {"maps", "attention-distance", "amplitude", "similarity"}
    own = {f"{kind}-{name}-seed-0" for kind in ("heads", "filters") for name in ("vit", "swin")}
    files = {path.stem for path in Path("out").glob("*.png")}
    assert files == shared | own | {"positions-vit-seed-0", "class-token-vit-seed-0"}
    page = Path("out/index.html").read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,[^"]+"', page)) == len(files)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere

    assert run("visualize", ["--config", *configs, "--images", str(photos), "--out", "own"]) == 0
    assert "broken.png cannot be decoded" in capsys.readouterr().err
    assert "Measured on 6 images" in Path("own/index.html").read_text()


def test_one_image_is_enough(tiny: Write, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "one/red.png")
    assert run("visualize", ["--config", train(tiny, "vit"), "--images", "one", "--out", "out"]) == 0
    assert not Path("out/similarity.png").exists()  # which is of the variation among images


def test_runs_that_validate_on_other_images_are_not_compared(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    configs = [train(tiny, "one"), train(tiny, "other", "--data.split_seed", "1")]
    assert run("visualize", ["--config", *configs, "--out", "out"]) == 2
    assert "give --images FOLDER" in capsys.readouterr().err


def test_a_folder_without_pictures_is_named(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("visualize", ["--config", train(tiny, "vit"), "--images", "nowhere", "--out", "out"]) == 2
    assert "nowhere holds no picture" in capsys.readouterr().err


@pytest.mark.slow  # timm
def test_a_model_without_attention_is_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    resnet = {"class_path": "vitlab.models.TimmModel", "init_args": {"name": "test_resnet"}}
    config = train(tiny, "resnet", backbone=resnet)
    assert run("visualize", ["--config", config, "--out", "out"]) == 2
    assert "TimmModel gives no attention" in capsys.readouterr().err
