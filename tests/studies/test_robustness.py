"""`robustness`: the models of a study on corrupted images, and the report's section on them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from referee.report import drawing
from torch import Tensor, nn

from vitlab.commands import studies as robustness
from vitlab.commands.dispatch import run
from vitlab.data import Digits
from vitlab.data.corruptions import CLEAN, CORRUPTIONS, accuracies, corrupt, select_images
from vitlab.evaluation.features import classify
from vitlab.evaluation.predictions import Predictions, write_predictions
from vitlab.models import VisionTransformer
from vitlab.runs.record import erase
from vitlab.studies.file.runs import Run
from vitlab.studies.report.sections import Robustness, draw_curves, read_robustness, summary

Write = Callable[..., Path]


@pytest.mark.slow
def test_a_study_is_tested_and_what_failed_is_named(tiny: Write, capsys: pytest.CaptureFixture) -> None:
    place = ["--run.root", "runs/study", "--run.name", "vit-small", "--seed_everything", "1"]
    assert run("fit", ["--config", str(tiny()), *place]) == 0
    rows = [("ViT small", 1, "finished"), ("Swin", 1, "out of memory")]
    pd.DataFrame(rows, columns=["variant", "seed", "status"]).to_csv("runs/study/results.csv", index=False)
    assert run("robustness", ["runs/study"]) == 0

    file = "runs/study/vit-small/seed-1/robustness.csv"
    table = pd.read_csv(file, keep_default_na=False)
    assert len(table) == 1 + 5 * len(CORRUPTIONS)
    clean = table[table["corruption"] == CLEAN[0]]["top1"].item()
    summary = json.loads(Path("runs/study/vit-small/seed-1/summary.json").read_text())
    assert round(599 * clean) == round(599 * summary["metrics"]["test/top1"])  # to the image
    worst = table.groupby("corruption")["top1"].min()
    assert worst["occlusion"] < clean  # a tenth of the image cannot say as much as all of it
    assert "Swin, seed 1: out of memory" in capsys.readouterr().err

    # Fewer of everything; a mistake is answered in one line.
    assert run("robustness", ["runs/study", "--images", "60"]) == 0
    table = pd.read_csv(file, keep_default_na=False)
    assert table["images"].value_counts().to_dict() == {599: 1 + 5 * len(CORRUPTIONS), 60: 1 + 5 * len(CORRUPTIONS)}
    assert run("robustness", ["runs/study", "--images", "0"]) == 2
    assert "invalid PositiveInt value: '0'" in capsys.readouterr().err


class ByColumn(VisionTransformer):
    """Says of an image in which column it is brightest: not of its label, but of what was done to it."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean(dim=(1, 2)), images.new_zeros(len(images), 2)], dim=1)


def test_all_corruptions_in_one_pass_are_those_of_a_pass_each() -> None:
    """The oracle is the long way: each corruption and strength on all batches anew."""
    model: nn.Module = ByColumn(8, 4, 1, 10, embed_dim=8, depth=1, num_heads=1)
    data = Digits(batch_size=150)
    measured = accuracies(model, data.batches("test", "cpu"), CORRUPTIONS, data.mean, data.std)
    assert len(measured) == 1 + sum(len(corruption.strengths) for corruption in CORRUPTIONS)
    predicted, labels = classify(model, data.batches("test", "cpu"))
    assert measured[CLEAN] == float((predicted == labels).double().mean())
    images = torch.cat([view for (view,), _ in data.batches("test", "cpu")])
    for corruption in CORRUPTIONS:
        strength = corruption.strengths[2]
        corrupted = corrupt(images, corruption, strength, torch.arange(len(images)), data.mean, data.std)
        right = model(corrupted).argmax(dim=1) == labels
        assert measured[corruption.name, strength] == pytest.approx(float(right.double().mean()), abs=2 / 599)


def test_some_of_the_images_are_those_that_were_chosen() -> None:
    batches = [([torch.arange(9.0).view(9, 1, 1, 1)[part]], torch.arange(9)[part]) for part in (slice(5), slice(5, 9))]
    chosen = np.array([1, 4, 7])
    parts = list(select_images(iter(batches), chosen))
    assert torch.cat([images for (images,), _ in parts]).flatten().tolist() == [1, 4, 7]
    assert torch.cat([labels for _, labels in parts]).tolist() == [1, 4, 7]
    assert len(list(select_images(iter(batches), np.array([8])))) == 1  # a batch without one is left out


@pytest.fixture
def study(tmp_path: Path) -> list[Run]:
    data = Digits()
    labels, names = data.labels("test"), data.image_names("test")
    runs = [Run(variant, seed, {}, tmp_path / variant) for seed in (1, 2) for variant in "ab"]
    for number, model in enumerate(runs):
        model.directory.mkdir(parents=True)
        (model.directory / "config.yaml").write_text("run: {probe: null}")
        logits = np.full((len(labels), 10), number, dtype=np.float32)
        write_predictions(model.directory / "predictions.parquet", Predictions(names, labels, logits))
    return runs


def read(runs: list[Run]) -> pd.DataFrame:
    files = [run.directory / "robustness.csv" for run in runs]
    return pd.concat([pd.read_csv(file, keep_default_na=False) for file in files if file.is_file()])


class Bench:
    """Measures models whose accuracy is always 10 %; `measured` names them, and `stop_at` one that cannot be loaded."""

    def __init__(self, study: list[Run], folder: Path) -> None:
        self.study, self.folder = study, folder
        self.measured: list[str] = []
        self.stop_at = ""
        self.labels = Digits().labels("test")
        rows = [(run.variant, run.seed, "finished") for run in study]
        pd.DataFrame(rows, columns=["variant", "seed", "status"]).to_csv(folder / "results.csv", index=False)

    def rows(self, directory: Path, chosen: np.ndarray) -> pd.DataFrame:
        self.measured.append(f"{directory.parent.name}{directory.name[-1]}")
        if self.measured[-1] == self.stop_at:
            raise RuntimeError
        kinds = [CLEAN, *((each.name, strength) for each in CORRUPTIONS for strength in each.strengths)]
        table = pd.DataFrame(kinds, columns=["corruption", "strength"])
        nines = float((self.labels[chosen] == 9).mean())
        table["measure"] = table["corruption"].map(lambda name: "" if name == CLEAN[0] else "σ")
        return table.assign(images=len(chosen), top1=nines)

    def measure(self, images: int) -> pd.DataFrame:
        self.measured.clear()
        robustness.run_robustness([str(self.folder), "--images", str(images)])
        return read(self.study)


@pytest.fixture
def bench(study: list[Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    bench = Bench(study, tmp_path)
    monkeypatch.setattr(robustness, "measure", bench.rows)
    return bench


def test_a_stopped_measurement_goes_on_where_it_stopped(bench: Bench) -> None:
    bench.stop_at = "a2"
    with pytest.raises(RuntimeError):
        bench.measure(50)
    assert len(read(bench.study)) == 2 * 31
    bench.stop_at = ""
    table = bench.measure(50)
    assert bench.measured == ["a2", "b2"]  # what was measured is not measured again
    assert len(table) == 4 * 31
    assert set(table["images"]) == {50}

    # A run that is trained again is measured again, and one that lacks a corruption; a curve needs all runs.
    directory = bench.study[2].directory
    shutil.copytree(directory, directory.with_name("before"))
    erase(directory)
    assert not (directory / "robustness.csv").exists()
    for name in ("config.yaml", "predictions.parquet"):
        shutil.copy(directory.with_name("before") / name, directory)
    report = read_robustness(bench.study)
    assert report is not None
    assert report.missing == ["a, seed 2"]
    bench.measure(50)
    assert bench.measured == ["a2"]
    kept = read(bench.study[1:2])
    kept[kept["corruption"] != "JPEG"].to_csv(bench.study[1].directory / "robustness.csv", index=False)
    report = read_robustness(bench.study)
    assert report is not None
    assert [*report.measures] == [each.name for each in CORRUPTIONS if each.name != "JPEG"]
    assert report.missing == []
    bench.measure(50)
    assert bench.measured == ["b1"]
    assert len(read(bench.study)) == 4 * 31


def test_a_study_that_ranks_features_is_refused_before_anything_is_measured(bench: Bench) -> None:
    (bench.study[-1].directory / "config.yaml").write_text("run: {probe: knn}")
    with pytest.raises(ValueError, match=r"probes features \(b, seed 2: run\.probe\)"):
        bench.measure(50)
    assert not bench.measured
    (bench.study[-1].directory / "config.yaml").write_text("{run: {probe: linear}, trainer: {max_epochs: 0}}")
    assert len(bench.measure(50)) == 4 * 31  # a linear probe of a frozen network is its own head


def test_the_summary_averages_strengths_within_a_seed_and_takes_its_interval_over_seeds() -> None:
    accuracies = {1: (0.9, 0.5), 2: (0.8, 0.4), 3: (0.7, 0.6)}
    rows = [
        {"variant": variant, "corruption": name, "seed": seed, "top1": share * top1, "images": 1000}
        for variant, name, share in (("b", "noise", 0.5), ("b", "blur", 0.1), ("a", "noise", 1.0), ("a", "blur", 0.9))
        for seed, values in accuracies.items()
        for top1 in values
    ]
    averages = summary(pd.DataFrame(rows), ["noise", "blur"])
    assert list(averages) == ["b", "a"]  # in the table's order
    assert [interval.mean for interval in averages["b"]] == pytest.approx([0.325, 0.065])
    interval = averages["a"][0]
    means = np.array([0.7, 0.6, 0.65])
    half = 4.302653 * means.std(ddof=1) / 3**0.5  # Student's t with two degrees of freedom, 97.5 %
    assert interval == pytest.approx((0.65, 0.65 - half, 0.65 + half))


def test_a_variant_has_its_color_also_where_another_failed() -> None:
    rows = [("Swin", 1, name, strength, 0.9, 100) for name, strength in (CLEAN, ("noise", 0.1))]
    table = pd.DataFrame(rows, columns=["variant", "seed", "corruption", "strength", "top1", "images"])
    for layout in (drawing.WIDE, drawing.NARROW):
        study: Any = SimpleNamespace(study=SimpleNamespace(variants={"ViT": {}, "Swin": {}}))
        (axes,) = draw_curves(Robustness(table.assign(measure="σ"), []), study, layout).axes
        assert axes.lines[0].get_color() == drawing.COLORS[1]


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no results\.csv in it"):
        robustness.finished_runs(tmp_path)
    (tmp_path / "results.csv").write_text("variant,seed,status\nViT,1,killed\n")
    with pytest.raises(ValueError, match="none of its runs finished"):
        robustness.finished_runs(tmp_path)


def test_a_sample_of_the_test_images_keeps_the_proportions() -> None:
    labels = np.repeat([0, 1, 2], [5000, 3000, 2000])
    chosen = robustness.sample(labels, 100)
    assert len(set(chosen)) == 100
    assert np.bincount(labels[chosen]).tolist() == [50, 30, 20]
    assert robustness.sample(labels[:40], 100).tolist() == robustness.sample(labels[:40], None).tolist() == [*range(40)]
