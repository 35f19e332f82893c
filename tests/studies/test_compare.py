from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_study import FAKE_PROGRAM, Digits

from vitlab.studies.compare import compare, results_of
from vitlab.studies.report.verdict import verdict
from vitlab.studies.study import Run

Write = Callable[..., Path]


def test_broken_data_stop_a_study_before_its_first_run(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(run: Run) -> None:
        raise FileNotFoundError("No folder photos/.")

    monkeypatch.setattr("vitlab.studies.compare.images_of", no_data)
    with pytest.raises(FileNotFoundError):
        compare(write_study(), tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))


def test_results_are_read_without_starting_a_run(
    write_study: Write, digits: Digits, tmp_path: Path, no_figures: None
) -> None:
    study, root = write_study(), tmp_path / "runs"
    nothing, _ = results_of(study, root)
    assert nothing.finished == []
    assert {failure for _, failure in nothing.failures} == {"is not finished"}
    assert not list(root.glob("*/*/seed-*"))

    report = compare(study, root, program=FAKE_PROGRAM)
    results, images = results_of(study, root)
    assert len(results.finished) == 9
    assert verdict(results) in report.read_text()
    assert images is digits

    (root / "small-study" / "swin" / "seed-2" / "summary.json").unlink()
    fewer, _ = results_of(study, root)
    assert [str(run) for run, _ in fewer.failures] == ["Swin, seed 2"]

    with pytest.raises(ValueError, match="another configuration"):
        results_of(write_study(budget={"epochs": 5}), root)


@pytest.mark.parametrize("changes", [{}, {"tune": {"key": "model.init_args.lr", "values": [0.1, 0.2]}}])
def test_data_that_have_no_top1_accuracy_are_refused_before_the_first_run(
    changes: dict, write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "labels", lambda self, split: np.eye(10)[self.target[self.splits[split]]])
    with pytest.raises(ValueError, match=r"study\.yaml: the labels are float64 of shape \(597, 10\).* top-1") as raised:
        compare(write_study(**changes), tmp_path / "runs", program=FAKE_PROGRAM)
    assert len(str(raised.value).splitlines()) == 1
    assert not list(tmp_path.glob("runs/**/seed-*"))


def test_results_of_a_study_whose_budget_nobody_measured_are_refused(write_study: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it has not been measured on this machine"):
        results_of(write_study(budget={"flops": 1e12}), tmp_path / "runs")
