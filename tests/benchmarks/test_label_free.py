"""Correlations of ranks with their intervals."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks.label_free import correlation, encoders, report


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
