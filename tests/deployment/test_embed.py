"""`embed`: the features of any pictures, with their names, and a map of them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vitlab import load
from vitlab.analysis.figures import draw_map
from vitlab.commands.dispatch import run
from vitlab.data import Digits


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
