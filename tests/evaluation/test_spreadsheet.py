"""Names that a spreadsheet would run as formulas: of classes, which are folders' names, of files and of variants."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.studies.fake_study import Digits, results, right
from vitlab.deployment.predict import Answers, write_answers
from vitlab.evaluation.per_class import write_per_class
from vitlab.evaluation.predictions import Predictions
from vitlab.evaluation.spreadsheet import as_csv, exact
from vitlab.studies.report.page import write_report
from vitlab.studies.report.robustness import finished_runs

HOSTILE = ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "'=already", "a\r=1", "a\n=1"]
ALONE = 7  # of them begin as a formula does
PLAIN = ["daisy", "a=b", "'quoted'", "x, y"]
FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def texts(file: Path) -> list[str]:
    """Return all cells of a file."""
    with file.open(newline="") as stream:
        return [text for row in csv.reader(stream) for text in row]


def test_every_such_name_gets_an_apostrophe_and_is_read_back(tmp_path: Path) -> None:
    table = pd.DataFrame({"name": HOSTILE + PLAIN, "=n": -1.0, "-i": np.arange(13)})
    (tmp_path / "table.csv").write_text(as_csv(table, index=False), newline="")
    expected = [*(f"'{name}" for name in HOSTILE[:ALONE]), *HOSTILE[ALONE:], *PLAIN]
    assert texts(tmp_path / "table.csv")[:3] == ["name", "'=n", "'-i"]
    assert texts(tmp_path / "table.csv")[3::3] == expected
    pd.testing.assert_frame_equal(exact(pd.read_csv(tmp_path / "table.csv")), table)
    assert as_csv(pd.DataFrame({"a": PLAIN})) == pd.DataFrame({"a": PLAIN}).to_csv()


def test_no_table_of_a_run_or_of_predictions_begins_a_cell_with_a_formula(tmp_path: Path) -> None:
    K = len(HOSTILE)
    write_per_class(tmp_path, Predictions(HOSTILE, np.arange(K), np.eye(K, dtype=np.float32)), HOSTILE)
    write_answers(Answers(tmp_path, HOSTILE, HOSTILE, np.eye(K), [], {}), "model", tmp_path)
    for name in ("per_class.csv", "confusion.csv", "predictions.csv"):
        found = texts(tmp_path / name)
        assert f"'{HOSTILE[0]}" in found
        assert [text for text in found if text.startswith(FORMULAS)] == [], name
    assert pd.read_parquet(tmp_path / "predictions.parquet")["file"].tolist() == HOSTILE
    assert exact(pd.read_csv(tmp_path / "predictions.csv"))["class"].tolist() == HOSTILE


@pytest.mark.usefixtures("no_figures")
def test_no_table_of_a_study_begins_a_cell_with_a_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").touch()
    digits, names = Digits(), ["=1+1", "@ViT"]
    write_report(results({name: {seed: right(0.8, 597, seed) for seed in (1, 2)} for name in names}), digits, tmp_path)
    for name in ("results.csv", "per_class.csv"):
        found = texts(tmp_path / name)
        assert "'=1+1" in found
        assert [text for text in found if text.startswith(FORMULAS)] == [], name
    assert {run.variant for run in finished_runs(tmp_path)[0]} == {*names}
