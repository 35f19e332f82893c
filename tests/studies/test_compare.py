from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fake_study import FAKE_PROGRAM, FakeWorkshop, variant

from vitlab.studies import compare as module
from vitlab.studies.compare import compare, first_runs, measure_costs, results_of
from vitlab.studies.grid import plan, read_study
from vitlab.studies.runner import Allotment
from vitlab.studies.verdict import verdict

Write = Callable[..., Path]


def test_cost_is_measured_in_one_sitting(
    write_study: Write, workshop: FakeWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(**changes: object) -> dict[str, float]:
        base = {"data": {"class_path": "fake.Digits", "init_args": {"batch_size": 128}}}
        (tmp_path / "larger.yaml").write_text(yaml.safe_dump(base))
        variants = {"A": variant(0.9), "B": variant(0.8)}
        study = read_study(write_study(variants=variants, **changes))
        runs = first_runs(study, plan(study, workshop, tmp_path))
        for run in runs:
            run.folder.mkdir(parents=True, exist_ok=True)
        costs, failures = measure_costs(runs, FAKE_PROGRAM, Allotment(1, 1, []))
        assert set(costs) == {"A", "B"}
        assert failures == {}
        return {run.variant: (run.folder / "cost.json").stat().st_mtime for run in runs}

    monkeypatch.setattr(module, "device_name", lambda device: "a fake")
    first = measure()
    assert measure() == first  # same configurations, same device: kept
    assert measure(budget={"epochs": 5}) == first  # of which a step's cost knows nothing
    changed = measure(base="larger.yaml")
    assert all(changed[name] > first[name] for name in first)
    (tmp_path / "small-study" / "b" / "cost.json").unlink()
    again = measure(base="larger.yaml")
    assert all(again[name] > changed[name] for name in first)  # one is missing, both are measured
    monkeypatch.setattr(module, "device_name", lambda device: "another machine")
    elsewhere = measure(base="larger.yaml")
    assert all(elsewhere[name] > again[name] for name in first)
    (tmp_path / "small-study" / "b" / "cost.json").write_text('{"parameters": 7}')  # of an older version
    assert all(value > elsewhere[name] for name, value in measure(base="larger.yaml").items())


def test_broken_data_stop_a_study_before_its_first_run(
    write_study: Write, workshop: FakeWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(config: object) -> None:
        raise FileNotFoundError("No folder photos/.")

    monkeypatch.setattr(workshop, "data", no_data)
    with pytest.raises(FileNotFoundError):
        compare(write_study(), workshop, tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))


def test_results_are_read_without_starting_a_run(write_study: Write, workshop: FakeWorkshop, tmp_path: Path) -> None:
    study, root = write_study(), tmp_path / "runs"
    nothing, _ = results_of(study, workshop, root)
    assert nothing.finished == []
    assert {failure for _, failure in nothing.failures} == {"is not finished"}
    assert not list(root.glob("*/*/seed-*"))

    report = compare(study, workshop, root, program=FAKE_PROGRAM)
    results, images = results_of(study, workshop, root)
    assert len(results.finished) == 9
    assert verdict(results) in report.read_text()
    assert images is workshop.images

    (root / "small-study" / "swin" / "seed-2" / "summary.json").unlink()
    fewer, _ = results_of(study, workshop, root)
    assert [str(run) for run, _ in fewer.failures] == ["Swin, seed 2"]

    with pytest.raises(ValueError, match="another configuration"):
        results_of(write_study(budget={"epochs": 5}), workshop, root)


def test_results_of_a_study_whose_budget_nobody_measured_are_refused(
    write_study: Write, workshop: FakeWorkshop, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="nobody has measured it here"):
        results_of(write_study(budget={"flops": 1e12}), workshop, tmp_path / "runs")
