"""The example of a data set, copied into a package: trained, continued and probed."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

from vitlab.commands.dispatch import run


@pytest.fixture
def toy(write_toy: Callable[[str], str]) -> str:
    return write_toy("dataset")


def write_table(path: Path, splits: list[str] | None = None) -> None:
    """Write 40 noisy pictures of two classes, bright and dark."""
    rng, files = np.random.default_rng(0), []
    for number in range(40):
        noise = rng.integers(0, 120, (24, 30, 3), dtype=np.uint8) + np.uint8(120 * (number % 2))
        Image.fromarray(noise).save(file := io.BytesIO(), "JPEG")
        files.append(file.getvalue())
    columns: dict = {"image": files, "label": [("dark", "bright")[number % 2] for number in range(40)]}
    parquet.write_table(pa.table(columns if splits is None else columns | {"split": splits}), path)


@pytest.mark.slow(edge=True)
def test_the_data_set_is_a_complete_file(toy: str, tiny: Callable[..., Path]) -> None:
    assert len(toy.splitlines()) <= 40
    write_table(Path("photos.parquet"))
    source = {"class_path": "mine.dataset.Parquet", "init_args": {"path": "photos.parquet"}}
    settings = {"source": source, "image_size": 16, "batch_size": 4, "num_workers": 0, "val_fraction": 0.25}
    short = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}
    data = {"class_path": "vitlab.data.ImageFolder", "init_args": settings}
    path = str(tiny({"data": data, "trainer": short}, "parquet"))
    assert run("fit", ["--config", path]) == 0
    directory = Path("runs/longer/seed-0")
    more = ["--ckpt_path", "runs/parquet/seed-0/checkpoints/last.ckpt", "--run.name", "longer"]
    assert run("fit", ["--config", path, "--trainer.max_epochs", "2", *more]) == 0
    assert json.loads((directory / "summary.json").read_text())["steps"] == 4
    facts = json.loads((directory / "data.json").read_text())
    assert facts["classes"] == ["bright", "dark"]
    assert {name: split["images"] for name, split in facts["splits"].items()} == {"train": 20, "val": 10, "test": 10}
    assert run("probe", ["--config", str(directory / "config.yaml")]) == 0


def test_its_own_splits_are_kept_and_a_damaged_row_is_named(toy: str, tmp_path: Path) -> None:
    from importlib import import_module

    from vitlab.data import ImageFolder

    splits = ["train"] * 30 + ["val"] * 10
    write_table(tmp_path / "photos.parquet", splits)
    source = import_module("mine.dataset").Parquet(str(tmp_path / "photos.parquet"))
    data = ImageFolder(source=source, image_size=16, num_workers=0)
    assert data.image_names("val") == [str(number) for number in range(30, 40)]
    assert data.image_names("test") == data.image_names("val")
    source.images = pa.chunked_array([pa.array([b"\xff\xd8 no picture"] * 40)])
    with pytest.raises(ValueError, match=r"Row 30 of .*photos.parquet: "):
        data.raw_images("val", [0])
