"""`embed`: the features of any pictures, with their names, and a page that maps them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vitlab import Experiment, load
from vitlab.commands.dispatch import run
from vitlab.data import Digits
from vitlab.deployment.embed import nearest, projected


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


def expected(trained: Path, *stages: int) -> tuple[list[str], np.ndarray, list[np.ndarray]]:
    """Return names, embeddings and maps, from the model itself."""
    model = load(trained)
    files = sorted(Path("pictures").rglob("*.png"), key=lambda file: str(file))
    names = [file.relative_to("pictures").as_posix() for file in files]
    with torch.no_grad():
        x = torch.stack([model.transform(Image.open(file)) for file in files])
        maps = model.model.forward_intermediates(x, list(stages), intermediates_only=True) if stages else []
        return names, model.model.embed(x).numpy(), [found.numpy() for found in maps]


def test_the_files_hold_names_embeddings_and_maps_in_one_order(
    trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names, embedding, maps = expected(trained, 0, 1)
    (pictures / "broken.png").write_bytes(b"no picture")
    write(trained, "--stages")
    table = pd.read_parquet("out/features.parquet")
    order, order_expected = np.argsort(table["file"].to_numpy()), np.argsort(names)
    assert sorted(table["file"]) == sorted(names)
    found = np.stack(table["embedding"].tolist())
    np.testing.assert_allclose(found[order], embedding[order_expected], atol=1e-5)
    with np.load("out/maps.npz") as file:
        for name, wanted in zip(["blocks.0", "blocks.1"], maps, strict=True):
            np.testing.assert_allclose(file[name][order], wanted[order_expected], atol=1e-5)
        assert json.loads(str(file["features"]))[1] == {"module": "blocks.1", "num_chs": 16, "reduction": 4}
    assert sorted(path.name for path in Path("out").iterdir()) == ["features.parquet", "index.html", "maps.npz"]
    said = capsys.readouterr()
    assert "21 pictures, 16 features: out/features.parquet and out/maps.npz" in said.out
    assert "blocks.1: maps of 16 channels, a place each 4 px" in said.out
    assert "1 could not be decoded and are left out:\n  broken.png: " in said.err


def test_the_page_shows_each_picture_and_needs_nothing_else(trained: Path, pictures: Path) -> None:
    write(trained)
    page = Path("out/index.html").read_text()
    assert page.count('class="point"') == page.count('<image href="data:image/png') == 21
    assert "21 pictures by their 16 features" in page
    assert "&lt;b&gt;&amp;.png" in page
    assert "<b>&" not in page
    assert "class 1 (" in page
    assert "not in a folder (1)" in page
    assert re.findall(r"https?://|url\(|src=\"(?!data:)|<link", page) == []
    near = json.loads(re.findall(r"const near = (.*);", page)[0])
    assert len(near) == 21
    assert all(i not in row for i, row in enumerate(near))


def test_a_pca_is_that_of_the_covariance_matrix() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    places, axes = projected(x)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    wanted = (x - x.mean(axis=0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(places), np.abs(wanted), atol=1e-8)
    assert axes[0] == f"principal component 1, {values[-1] / values.sum():.0%} of the variance"


def test_the_nearest_have_the_largest_cosine() -> None:
    x = np.array([[1.0, 0], [9, 1], [0, 2], [1, 9], [-1, 0]])
    assert nearest(x)[0] == [1, 3, 2, 4]
    assert nearest(x)[2] == [3, 1, 0, 4]


def test_stages_that_do_not_exist_and_missing_folders_are_refused(
    trained: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--config", str(trained), "--images", "pictures", "--out", "out"]
    assert run("embed", [*given, "--stages", "2"]) == 2
    assert "there are 2: 0 to 1 (blocks.1)" in capsys.readouterr().err
    assert run("embed", ["--config", str(trained), "--images", "none", "--out", "out"]) == 2
    assert "no such file or folder" in capsys.readouterr().err
    assert run("embed", ["--config", str(trained), "--images", "pictures", "--out", "out/all.parquet"]) == 2
    assert "--out out/all.parquet: give a folder. Its table is features.parquet." in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_experiment_gives_maps(trained: Path) -> None:
    model = Experiment.load(trained).model.eval()
    (last,) = model.features_only(1)(torch.zeros(3, 1, 8, 8))
    assert last.shape == (3, 16, 2, 2)
