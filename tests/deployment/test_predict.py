"""`predict --images`: what a run says about pictures that are not of its data set."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vitlab import load
from vitlab.analysis.figures import draw_map
from vitlab.commands.dispatch import run
from vitlab.data import CIFAR10, Digits, ImageDataModule, ImageFolder
from vitlab.deployment.load import LoadedModel, activated
from vitlab.evaluation.predictions import probabilities, read_predictions
from vitlab.models import VisionTransformer
from vitlab.objectives import Objective, Supervised


@pytest.fixture
def own(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory; return a folder of ten test digits as files, at several depths and formats."""
    monkeypatch.chdir(tmp_path)
    data = Digits()
    for i, (image, suffix) in enumerate(zip(data.raw_images("test", range(10)), ["png", "bmp"] * 5, strict=True)):
        file = Path("own", *["deeper"] * (i % 3), f"{i}.{suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(file)
    return Path("own")


def predict(trained: Path, images: Path | list[Path], *arguments: str) -> pd.DataFrame:
    paths = map(str, images if isinstance(images, list) else [images])
    given = ["--config", str(trained / "config.yaml"), "--images", *paths, "--out", "seen", *arguments]
    assert run("predict", given) == 0
    return pd.read_parquet("seen/predictions.parquet")


def test_the_datas_own_images_get_the_runs_own_predictions(trained: Path, own: Path) -> None:
    told = read_predictions(trained / "predictions.parquet")
    assert told.logits_ema is not None
    table = predict(trained, own)
    table.index = table["file"].map(lambda file: int(Path(file).stem))
    expected = probabilities(told.logits_ema[:10])
    columns = [f"p_{name}" for name in Digits().class_names]
    np.testing.assert_allclose(table.sort_index()[columns], expected, atol=1e-5)
    assert table.sort_index()["class"].tolist() == [str(k) for k in expected.argmax(axis=1)]
    np.testing.assert_allclose(table.sort_index()["probability"], expected.max(axis=1), atol=1e-5)
    written = pd.read_csv("seen/predictions.csv", dtype={"class": str})
    pd.testing.assert_frame_equal(written, pd.read_parquet("seen/predictions.parquet"))


def test_broken_files_are_named_and_left_out(trained: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "damaged.jpg").write_bytes(b"\xff\xd8 no more")
    (own / "notes.txt").write_text("no picture by its name")
    table = predict(trained, own)
    assert len(table) == 10
    said = capsys.readouterr()
    assert "10 pictures" in said.out
    assert "1 could not be decoded" in said.err
    assert "damaged.jpg" in said.err
    assert "damaged.jpg: " in Path("seen/index.html").read_text()


def test_the_page_shows_every_picture_and_needs_nothing_else(trained: Path, own: Path) -> None:
    Image.new("RGB", (90, 70), "red").save(own / "<b>&.jpg")
    table = predict(trained, own)
    page = Path("seen/index.html").read_text()
    assert re.findall(r'data-class="(.*?)"', page) == table["class"].tolist()
    assert page.count("data:image/png") == 10
    assert page.count("data:image/jpeg") == 1
    assert "&lt;b&gt;&amp;.jpg" in page
    assert "<b>&" not in page
    assert re.findall(r"https?://|url\(|src=\"(?!data:)|<link", page) == []


@pytest.mark.parametrize("kind", ["digits", "enlarged", "cifar", "photos"])
def test_pictures_from_elsewhere_look_as_the_datas_own(kind: str, tmp_path: Path) -> None:
    """An image of the data, saved and opened again, is the view that evaluation has of it."""
    rng = np.random.default_rng(0)
    data: ImageDataModule
    if kind == "photos":
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            for i in range(4):
                pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
        data = ImageFolder(root=str(tmp_path), image_size=16, batch_size=2, num_workers=0, val_fraction=0.25)
        pictures = [Image.open(tmp_path / name).convert("RGB") for name in data.image_names("test")]
    else:
        if kind == "cifar":
            arrays = {
                f"x_{split}": rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8) for split in ("train", "test")
            }
            labels = {f"y_{split}": np.arange(20) % 10 for split in ("train", "test")}
            np.savez(tmp_path / "cifar10.npz", **arrays, **labels)
        data = CIFAR10(root=str(tmp_path)) if kind == "cifar" else Digits(image_size=16 if kind == "enlarged" else 8)
        raw = data.raw_images("test", range(5))
        pictures = [Image.fromarray(image.squeeze()).convert("RGB") for image in raw]
    (views, _) = next(data.batches("test", "cpu"))
    torch.testing.assert_close(torch.stack([*map(data.preprocessing, pictures)]), views[0][: len(pictures)])


@pytest.mark.slow
@pytest.mark.parametrize("command", ["predict", "embed"])
def test_files_left_out_are_named_as_in_training(
    trained: Path, own: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    for name in ("phone.heic", "scan", "deeper/phone.HEIC"):
        (own / name).touch()
    assert run(command, ["--config", str(trained / "config.yaml"), "--images", str(own), "--out", "seen"]) == 0
    said = capsys.readouterr().err
    assert "without the name of an image, which are left out: 3 (2 .heic, 1 without suffix)." in said

    Path("phone").mkdir()
    Path("phone/a.heic").touch()
    assert run(command, ["--config", str(trained / "config.yaml"), "--images", "phone", "--out", "seen"]) == 2
    assert "--images phone contains no image but other files, 1 (1 .heic)." in capsys.readouterr().err


def test_answers_go_to_the_folder_predictions_unless_it_is_named(trained: Path, own: Path) -> None:
    assert run("predict", ["--config", str(trained / "config.yaml"), "--images", str(own)]) == 0
    assert Path("predictions/index.html").is_file()


def test_a_folder_without_pictures_is_refused(trained: Path, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--config", str(trained / "config.yaml"), "--images", "none", "--out", "seen"]
    assert run("predict", given) == 2
    assert "no such file or folder" in capsys.readouterr().err
    Path("none").mkdir()
    assert run("predict", given) == 2
    assert "contains no image" in capsys.readouterr().err
    assert not Path("seen").exists()


def test_an_objective_without_a_softmax_is_refused_in_one_line(own: Path) -> None:
    """Of a regression each picture would get the probability 1."""

    class Regression(Objective):
        monitor = None
        loss = Supervised.loss
        encoder = property(lambda self: self.backbone)

    backbone = VisionTransformer(8, 4, 1, num_classes=1, embed_dim=8, depth=1, num_heads=2)
    model = LoadedModel(backbone, Digits().preprocessing, ["height"], False, partial(activated, Regression), "here")
    with pytest.raises(ValueError, match=r"^Regression learns no classes by softmax, .*\.$"):
        model.classify([own])


# The features of any pictures, and a map of them


@pytest.fixture
def pictures(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty directory; return a folder of 20 test digits, in one folder for each class, and one of none."""
    monkeypatch.chdir(tmp_path)
    data = Digits()
    labels = np.arange(20) % 3
    for i, image in enumerate(data.raw_images("test", range(20))):
        file = Path("pictures", f"class {labels[i]}", f"{i:02}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(file)
    Path("pictures/<b>&.png").write_bytes(file.read_bytes())
    return Path("pictures")


def write(trained: Path, *arguments: str) -> None:
    assert run("embed", ["--config", str(trained), "--images", "pictures", "--out", "out", *arguments]) == 0


@pytest.mark.slow
def test_the_table_holds_names_and_embeddings_in_one_order(
    trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(trained)
    files = {file.relative_to(pictures).as_posix(): Image.open(file) for file in pictures.rglob("*.png")}
    with torch.no_grad():
        embedding = model.model.embed(torch.stack([model.transform(image) for image in files.values()])).numpy()
    (pictures / "broken.png").write_bytes(b"no picture")
    write(trained)
    table = pd.read_parquet("out/features.parquet").set_index("file")
    assert sorted(table.index) == sorted(files)
    np.testing.assert_allclose(np.stack(table["embedding"].loc[[*files]].tolist()), embedding, atol=1e-5)
    assert sorted(path.name for path in Path("out").iterdir()) == ["features.parquet", "map.png"]
    said = capsys.readouterr()
    assert "21 pictures, 16 features: out" in said.out
    assert f"Weights: {trained}" in said.err
    assert "1 could not be decoded and are left out, the first of them broken.png: " in said.err


def test_the_map_has_a_point_for_each_picture_in_the_plane_of_the_largest_variance() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    values, vectors = np.linalg.eigh(np.cov(x.T))
    expected = (x - x.mean(axis=0)) @ vectors[:, [-1, -2]]
    (axes,) = draw_map(x, [f"{'ab'[i % 2]}/{i}.png" for i in range(29)] + ["29.png"]).axes
    points = [np.asarray(part.get_offsets()) for part in axes.collections]
    assert [len(part) for part in points] == [15, 14, 1]  # by folder
    found = np.sort(np.abs(np.concatenate(points)), axis=0)
    np.testing.assert_allclose(found, np.sort(np.abs(expected), axis=0), atol=1e-8)
    assert axes.get_xlabel() == f"principal component 1, {values[-1] / values.sum():.0%} of the variance"


def test_missing_folders_are_refused(trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", ["--config", str(trained), "--images", "none", "--out", "out"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert run("embed", ["--config", str(trained), "--images", "pictures", "--out", "out/all.parquet"]) == 2
    assert "--out out/all.parquet: give a folder. Its table is features.parquet." in capsys.readouterr().err
    assert not Path("out").exists()
