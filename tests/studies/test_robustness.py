"""`robustness`: the models of a study on spoilt images, and the page with their curves."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from vitlab.commands import run
from vitlab.data import Digits
from vitlab.data.corruptions import CORRUPTIONS, corrupted
from vitlab.evaluation.answers import classify
from vitlab.models import VisionTransformer
from vitlab.studies import figures
from vitlab.studies.robustness import CLEAN, draw_curves, finished_runs, summary

Write = Callable[..., Path]


@pytest.mark.slow
def test_a_study_is_tested_and_what_failed_is_named(tiny: Write, capsys: pytest.CaptureFixture) -> None:
    place = ["--run.root", "runs/study", "--run.name", "vit-small", "--seed_everything", "1"]
    assert run("fit", ["--config", str(tiny()), *place]) == 0
    rows = [("ViT small", 1, "finished"), ("Swin", 1, "out of memory")]
    pd.DataFrame(rows, columns=["variant", "seed", "status"]).to_csv("runs/study/results.csv", index=False)
    assert run("robustness", ["--study", "runs/study"]) == 0

    table = pd.read_csv("runs/study/robustness/robustness.csv", keep_default_na=False)
    assert len(table) == 1 + 5 * len(CORRUPTIONS)
    clean = table[table["corruption"] == CLEAN]["top1"].item()
    summary = json.loads(Path("runs/study/vit-small/seed-1/summary.json").read_text())
    assert round(599 * clean) == round(599 * summary["metrics"]["test/top1"])  # to the image
    worst = table.groupby("corruption")["top1"].min()
    assert worst["occlusion"] < clean  # a tenth of the image cannot say as much as all of it
    page = Path("runs/study/robustness/index.html").read_text()
    assert "Swin, seed 1: out of memory" in page
    assert "Swin, seed 1: out of memory" in capsys.readouterr().err
    assert (Path("runs/study/robustness/robustness.png")).is_file()


class Constant(VisionTransformer):
    """Says the same of every image."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.arange(10.0).expand(len(images), 10)


def test_who_does_not_look_is_not_affected() -> None:
    model: nn.Module = Constant(8, 4, 1, 10, embed_dim=8, depth=1, num_heads=1)
    data = Digits(batch_size=300)
    clean = classify(model, data.batches("test", "cpu"))
    for corruption in CORRUPTIONS:
        spoilt = corrupted(data.batches("test", "cpu"), corruption, corruption.strengths[-1], data.mean, data.std)
        predicted, labels = classify(model, spoilt)
        assert torch.equal(predicted, clean[0])
        assert torch.equal(labels, clean[1])


def test_the_summary_averages_strengths_within_a_seed_and_takes_its_interval_over_seeds() -> None:
    accuracies = {1: (0.9, 0.5), 2: (0.8, 0.4), 3: (0.7, 0.6)}
    rows = [
        {"variant": variant, "corruption": name, "seed": seed, "top1": share * top1, "images": 1000}
        for variant, name, share in (("b", "noise", 0.5), ("b", "blur", 0.1), ("a", "noise", 1.0), ("a", "blur", 0.9))
        for seed, values in accuracies.items()
        for top1 in values
    ]
    found = summary(pd.DataFrame(rows), ["noise", "blur"])
    assert list(found) == ["b", "a"]  # as given
    assert [interval.mean for interval in found["b"]] == pytest.approx([0.325, 0.065])
    interval = found["a"][0]
    means = np.array([0.7, 0.6, 0.65])
    half = 4.302653 * means.std(ddof=1) / 3**0.5  # Student's t with two degrees of freedom, 97.5 %
    assert interval == pytest.approx((0.65, 0.65 - half, 0.65 + half))


def test_a_variant_has_its_colour_also_where_another_failed() -> None:
    rows = [("Swin", 1, name, strength, 0.9, 100) for name, strength in ((CLEAN, 0.0), ("noise", 0.1))]
    table = pd.DataFrame(rows, columns=["variant", "seed", "corruption", "strength", "top1", "images"])
    for layout in (figures.WIDE, figures.NARROW):
        (axes,) = draw_curves(table, {"noise": "σ"}, ["ViT", "Swin"], layout).axes
        assert axes.lines[0].get_color() == figures.COLOURS[1]


def test_a_folder_that_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no results\.csv there"):
        finished_runs(tmp_path)
    (tmp_path / "results.csv").write_text("variant,seed,status\nViT,1,killed\n")
    with pytest.raises(ValueError, match="none of its runs is finished"):
        finished_runs(tmp_path)
