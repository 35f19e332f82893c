from collections.abc import Callable
from pathlib import Path

import pytest
from fake_study import FAKE_PROGRAM, FakeWorkshop, variant

from vitlab.studies import compare as module
from vitlab.studies.compare import compare, first_runs, measure_costs
from vitlab.studies.grid import plan, read_study
from vitlab.studies.runner import Allotment

Write = Callable[..., Path]


def test_cost_is_measured_in_one_sitting(
    write_study: Write, workshop: FakeWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(**changes: object) -> dict[str, float]:
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
    changed = measure(budget={"epochs": 5})
    assert all(changed[name] > first[name] for name in first)
    (tmp_path / "small-study" / "b" / "cost.json").unlink()
    again = measure(budget={"epochs": 5})
    assert all(again[name] > changed[name] for name in first)  # one is missing, both are measured
    monkeypatch.setattr(module, "device_name", lambda device: "another machine")
    elsewhere = measure(budget={"epochs": 5})
    assert all(elsewhere[name] > again[name] for name in first)


def test_broken_data_stop_a_study_before_its_first_run(
    write_study: Write, workshop: FakeWorkshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_data(config: object) -> None:
        raise FileNotFoundError("No folder photos/.")

    monkeypatch.setattr(workshop, "data", no_data)
    with pytest.raises(FileNotFoundError):
        compare(write_study(), workshop, tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))
