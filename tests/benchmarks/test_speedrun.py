"""Tables and figures of runs: the speedrun, ranks without labels, and attention of the best heads."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.figures import best_heads, curve, draw_attention, encoder, seen
from benchmarks.label_free import correlation, encoders, report
from benchmarks.speedrun import Entry, read, row
from vitlab.analysis.attention import class_token_masks, jaccard, query_map
from vitlab.models import SwinTransformer

RECORDS = Path(__file__).parents[2] / "docs/records"


def test_the_operations_of_a_run_are_those_of_its_images() -> None:
    """The second ViT: 47 MFLOP for an image of 16 px, 85 % of them, and 196 for one of 32 px (docs/results.md)."""
    run = read(RECORDS / "speedrun-second/vit/seed-101")
    assert run.teraflops == pytest.approx((0.85 * 47 + 0.15 * 196) * run.images / 1e6, rel=0.01)
    assert 60 * run.wall * (1 - run.overhead) * run.rate == pytest.approx(run.teraflops)


def test_a_row_relates_the_rate_to_the_machines() -> None:
    runs = [read(folder) for folder in sorted((RECORDS / "speedrun-second/vit").glob("seed-*"))]
    here = runs[0]._replace(rate=0.03, machine="this one")
    rates = {("this one", "32-true"): 0.12}
    found = row("speedrun-second", "ViT", Entry(runs, here), rates)
    names = ["of the matrix rate", "GFLOP/s", "TFLOP", "seeds"]
    assert [found[name] for name in names] == ["25 %", "30", "24.9", "7"]
    elsewhere = row("speedrun-second", "ViT", Entry(runs, here._replace(machine="another")), rates)
    assert (elsewhere["of the matrix rate"], elsewhere["GFLOP/s"]) == ("", "30")


# Correlations of ranks with their intervals


def test_the_interval_is_that_of_bonett_and_wright() -> None:
    """Five of six ranks in order: ρ = 1 − 6 · 2 / (6 · 35); z = atanh ρ ± 1.96 √((1 + ρ²/2) / 3)."""
    rho, low, high = correlation(pd.Series([1, 2, 3, 4, 5, 6]), pd.Series([1, 2, 3, 4, 6, 5]))
    assert rho == pytest.approx(1 - 12 / 210)
    assert (low, high) == pytest.approx((0.3827, 0.9961), abs=2e-4)


def test_runs_that_did_not_finish_are_left_out_and_the_best_is_first(tmp_path: Path) -> None:
    for name, knn in {"a": 0.4, "b": 0.9, "c": 0.5, "d": 0.3, "e": 0.2}.items():
        (tmp_path / name / "seed-1").mkdir(parents=True)
        metrics = {"val/knn": knn, "train/loss": 1 - knn, "val/rank": 10.0 * knn}
        text = json.dumps({"finished": name != "b", "metrics": metrics})
        (tmp_path / name / "seed-1/summary.json").write_text(text)
    table = encoders(tmp_path)
    assert sorted(table.index) == ["a", "c", "d", "e"]
    text = report(table)
    assert text.index("| c | 50.0 |") < text.index("| a | 40.0 |")
    assert "| −train/loss | 1.00 [1.00, 1.00] |" in text


# Figures of attention


def test_the_head_that_overlaps_most_is_drawn() -> None:
    model, images = encoder(0), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(3, 32, 32, dtype=torch.bool)
    masks[:, 4:20, 8:24] = True
    maps = best_heads(model, images, masks)
    overlaps = jaccard(class_token_masks(model, images), masks)
    for image in range(3):
        head = max(range(overlaps.shape[1]), key=lambda h, i=image: float(overlaps[i, h]))
        heads = query_map(model.attention_maps(images)[-1], 0)
        torch.testing.assert_close(maps[image, ::4, ::4], heads[image, head], check_dtype=False)
    assert len(draw_attention(images, masks, {"untrained": maps}).axes) == 9


def test_a_cell_of_the_matrix_shows_all_attention_of_its_last_block() -> None:
    swin = SwinTransformer(img_size=32, patch_size=4, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=4)
    features, attention = seen(swin.eval(), torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), 1)
    assert features.shape == (4, 4, 3)
    assert 0.0 <= float(features.min()) < float(features.max()) <= 1.0
    assert float(attention.sum()) == pytest.approx(1.0)


def test_a_curve_begins_with_the_untrained_network(tmp_path: Path) -> None:
    """Epochs of 10 steps of 6 images at 2 images/s take half a minute; at 0.5 TFLOP/s that is 15 TFLOP."""
    (tmp_path / "config.yaml").write_text("data: {init_args: {batch_size: 6}}")
    (tmp_path / "metrics.csv").write_text(
        "step,epoch,images_per_second,tflops,val/knn,val/knn_untrained\n9,0,2,0.5,,\n19,1,2,0.5,0.4,0.3\n"
    )
    table = curve(tmp_path)
    assert table["minutes"].tolist() == [0.0, 1.0]
    assert table["tflop"].tolist() == [0.0, 30.0]
    assert table["knn"].tolist() == pytest.approx([30.0, 40.0])
