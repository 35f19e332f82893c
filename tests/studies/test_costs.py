"""The cost of a study's variants in one session: when it is measured again, turns, and what is reported."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from fake_study import FAKE_PROGRAM, variant

from vitlab.config import merge
from vitlab.evaluation.cost import Cost
from vitlab.studies.file.runs import Run, plan
from vitlab.studies.file.study import read_study
from vitlab.studies.training import costs as module
from vitlab.studies.training.costs import TURNS, known_costs, measure_costs
from vitlab.studies.training.slots import Slots

Write = Callable[..., Path]


@pytest.mark.slow
def test_cost_is_measured_in_one_sitting(write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Run] = []

    def measure(**changes: object) -> dict[str, float]:
        base = {"data": {"class_path": "fake.Digits", "init_args": {"batch_size": 128}}}
        (tmp_path / "larger.yaml").write_text(yaml.safe_dump(base))
        variants = {"A": variant(0.9), "B": variant(0.8)}
        study = read_study(write_study(**{"variants": variants, **changes}))
        runs = plan(study, tmp_path)[: len(study.variants)]
        measured[:] = runs
        for run in runs:
            run.folder.mkdir(parents=True, exist_ok=True)
        costs, failures = measure_costs(runs, FAKE_PROGRAM, Slots(1, 1, []))
        assert set(costs) == {"A", "B"}
        assert failures == {}
        return {run.variant: (run.folder / "cost.json").stat().st_mtime for run in runs}

    monkeypatch.setattr(module, "device_name", lambda device: "a fake")
    first = measure()
    assert measure() == first  # same configurations, same device: kept
    assert measure(budget={"epochs": 5}) == first  # of which a step's cost knows nothing
    longer = {"model": {"init_args": {"schedule": {"class_path": "x.Cosine", "init_args": {"warmup_epochs": 2}}}}}
    scheduled = {name: merge(variant(accuracy), longer) for name, accuracy in {"A": 0.9, "B": 0.8}.items()}
    assert measure(variants=scheduled) == first
    changed = measure(base="larger.yaml")
    assert all(changed[name] > first[name] for name in first)
    (tmp_path / "small-study" / "b" / "cost.json").unlink()
    again = measure(base="larger.yaml")
    assert all(again[name] > changed[name] for name in first)  # one is missing, both are measured
    monkeypatch.setattr(module, "device_name", lambda device: "another machine")
    assert set(known_costs(measured)[0]) == {"A", "B"}  # a report takes it from any machine
    elsewhere = measure(base="larger.yaml")
    assert all(elsewhere[name] > again[name] for name in first)
    file = tmp_path / "small-study" / "b" / "cost.json"
    older = json.loads(file.read_text())
    older["train_range"] = older.pop("train_quartiles")  # as before, of the backbone alone
    file.write_text(json.dumps(older))
    later = measure(base="larger.yaml")
    assert all(value > elsewhere[name] for name, value in later.items())
    base = {"data": {"class_path": "fake.Digits", "init_args": {"batch_size": 128}}, "run": {"compile": True}}
    (tmp_path / "compiled.yaml").write_text(yaml.safe_dump(base))
    assert all(value > later[name] for name, value in measure(base="compiled.yaml").items())


@pytest.fixture
def measure(write_study: Write, tmp_path: Path) -> Callable[..., tuple[dict, dict]]:
    def of(jobs: int = 1, **variants: dict) -> tuple[dict[str, Cost], dict[str, str]]:
        study = read_study(write_study(variants=variants))
        return measure_costs(plan(study, tmp_path)[: len(study.variants)], FAKE_PROGRAM, Slots(jobs, 1, []))

    return of


def test_variants_take_turns_and_the_screen_says_whose_it_is(
    measure: Callable[..., tuple[dict, dict]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    costs, failures = measure(A=variant(0.9), B=variant(0.8))
    assert set(costs) == {"A", "B"}
    assert failures == {}
    assert (tmp_path / "small-study" / "turns.txt").read_text().split() == ["a", "b"] * TURNS
    printed = capsys.readouterr().out
    assert "Measuring cost: preparing B (2 of 2) …" in printed
    assert f"Measuring cost: round {TURNS} of {TURNS} (A, B), about 0:0" in printed


def test_as_many_processes_measure_at_once_as_runs_share_a_device(
    measure: Callable[..., tuple[dict, dict]], tmp_path: Path
) -> None:
    costs, _ = measure(A=variant(0.9), B=variant(0.8), C=variant(0.7), jobs=2)
    assert [costs[name].processes for name in "ABC"] == [2, 2, 2]
    turns = (tmp_path / "small-study" / "turns.txt").read_text().split()
    assert [set(pair) for pair in zip(turns[::2], turns[1::2], strict=True)] == [
        *({"a", "b"}, {"b", "c"}, {"c", "a"})
    ] * (TURNS // 2)


def test_a_variant_has_several_processes_where_there_are_more_jobs_than_variants(
    measure: Callable[..., tuple[dict, dict]], tmp_path: Path
) -> None:
    costs, failures = measure(A=variant(0.9), B=variant(0.8), jobs=3)
    assert (set(costs), failures) == ({"A", "B"}, {})
    turns = (tmp_path / "small-study" / "turns.txt").read_text().split()
    assert turns.count("a") == turns.count("b") == 2 * TURNS  # of each two processes
    assert all(set(turns[at : at + 3]) == {"a", "b"} for at in range(0, len(turns), 3))


@pytest.mark.parametrize(
    ("jobs", "gpus", "sharing"), [(4, [], 4), (4, ["0", "1"], 2), (3, ["0", "1"], 2), (1, ["0"], 1)]
)
def test_runs_share_the_cpu_or_a_gpu(jobs: int, gpus: list[str], sharing: int) -> None:
    assert Slots(jobs, None, gpus).sharing == sharing


def test_a_variant_that_fails_leaves_the_others_their_turns(measure: Callable[..., tuple[dict, dict]]) -> None:
    costs, failures = measure(A=variant(0.9, dies_in_turn=1), B=variant(0.8), C=variant(0.7, no_cost=True))
    assert set(costs) == {"B"}
    assert failures["A"].startswith("exit status 3")
    assert failures["C"] == "exit status 1: RuntimeError: out of memory"


def test_a_busy_machine_and_turns_far_apart_are_told(
    measure: Callable[..., tuple[dict, dict]], capsys: pytest.CaptureFixture
) -> None:
    # One thread where others take 1.6 of 2 cores; a variant whose third quartile is 1.5 times its first.
    busy = {"threads": 1, "others": 1.6, "cores": 2, "train_quartiles": [60.0, 61.0]}
    moody = {"threads": 1, "others": 0.1, "cores": 2, "train_quartiles": [40.0, 60.0]}
    costs, _ = measure(A=variant(0.9, cost=busy), B=variant(0.8, cost=moody))
    assert (costs["A"].disturbed, costs["A"].unsteady) == (True, False)
    assert (costs["B"].disturbed, costs["B"].unsteady) == (False, True)
    assert costs["B"].train_quartiles == (40.0, 60.0)
    printed = capsys.readouterr().out
    assert (
        "Images/s are unreliable: while cost was measured, other programs used 1.6 of 2 cores and the speed of B"
        in printed
    )


def test_a_quiet_machine_is_not_blamed(
    measure: Callable[..., tuple[dict, dict]], capsys: pytest.CaptureFixture
) -> None:
    # Another program on the other core takes none that one thread needs.
    calm = {"threads": 1, "others": 1.0, "cores": 2, "train_quartiles": [60.0, 66.0]}
    measure(A=variant(0.9, cost=calm), B=variant(0.8))
    assert "unreliable" not in capsys.readouterr().out
    full = {"threads": 1, "others": 0.0, "cores": 2}  # two processes fill two cores
    measure(A=variant(0.9, cost=full), B=variant(0.8), jobs=2)
    assert "unreliable" not in capsys.readouterr().out
    measure(A=variant(0.9, cost={**full, "others": 0.5}), B=variant(0.7), jobs=2)
    assert "other programs used 0.5 of 2 cores" in capsys.readouterr().out
