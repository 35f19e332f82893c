"""Correlations of ranks with their intervals, and the curves of k-NN."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.knn_figure import curve
from benchmarks.label_free import correlation, encoders


def test_the_interval_is_that_of_bonett_and_wright() -> None:
    """Five of six ranks in order: ρ = 1 − 6 · 2 / (6 · 35); z = atanh ρ ± 1.96 √((1 + ρ²/2) / 3)."""
    rho, low, high = correlation(pd.Series([1, 2, 3, 4, 5, 6]), pd.Series([1, 2, 3, 4, 6, 5]))
    assert rho == pytest.approx(1 - 12 / 210)
    assert (low, high) == pytest.approx((0.3827, 0.9961), abs=2e-4)


def test_runs_that_did_not_finish_are_left_out(tmp_path: Path) -> None:
    for name, finished in (("a", True), ("b", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"finished": finished, "metrics": {"val/knn": 0.5}}))
    assert len(encoders(tmp_path)) == 1


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
