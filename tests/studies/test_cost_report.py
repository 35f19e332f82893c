"""What a report says of costs: where the runs contradict the measurement or the budget."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import results, right
from referee.report.document import Table, Text
from referee.report.drawing import Drawing

from vitlab.evaluation.cost import Cost
from vitlab.studies.file.budget import Budget
from vitlab.studies.file.format import speed
from vitlab.studies.report.cost import cost_remarks, cost_section, flops_of
from vitlab.studies.results.run import RunResult
from vitlab.studies.results.table import StudyResults

COST = Cost(1, 2, 3_000_000, 1_000.0, 4_000.0, 1, 1, None, None, 64, 30, "a CPU", 1, "2.15", (950.0, 1_050.0))


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ").replace("−", "-")


def logged(run: RunResult, speed: float, waiting: float = 0.05, flops: float = 3e6, devices: int = 1) -> RunResult:
    """Return a run whose metrics.csv has these rates, slower in the first of three epochs."""
    speeds = np.array([0.1 * speed, speed, speed])
    columns = {"images_per_second": speeds, "data_wait": waiting, "tflops": speeds / devices * flops / 1e12}
    history = pd.DataFrame({"epoch": [0, 1, 2], "val/top1": 0.8, **columns})
    return dataclasses.replace(run, history=history, environment={**run.environment, "devices": devices})


def study(
    speeds: dict[str, float], budget: Budget | None = None, seconds: float = 60.0, **rates: float
) -> StudyResults:
    """Return a study of two seeds whose variants were all measured at 1,000 images/s."""
    found = results({name: {1: right(0.9), 2: right(0.91)} for name in speeds}, costs=dict.fromkeys(speeds, COST))
    runs = [logged(run, speeds[run.run.variant], **rates) for run in found.finished]
    runs = [dataclasses.replace(run, summary={**run.summary, "seconds": seconds}) for run in runs]
    return dataclasses.replace(
        found, finished=runs, study=dataclasses.replace(found.study, budget=budget or found.study.budget)
    )


def test_runs_a_fifth_slower_or_faster_than_measured_are_remarked_on() -> None:
    assert cost_remarks(study({"ViT": 810.0, "Swin": 1_190.0})) == []
    (remark,) = cost_remarks(study({"ViT": 602.0, "Swin": 990.0}, waiting=0.25))
    assert "ViT 602 instead of 1,000 images/s (-40 %; waiting for data: 25 % of the time)" in plain(remark)
    assert "Swin" not in remark
    (remark,) = cost_remarks(study({"ViT": 1_250.0, "Swin": 700.0}))
    assert "ViT 1,250 instead of" in remark
    assert "Swin 700 instead of" in remark


def test_runs_whose_images_grow_are_faster_in_proportion() -> None:
    found = study({"ViT": 2_500.0})
    found = dataclasses.replace(found, costs={"ViT": dataclasses.replace(COST, mean_share=0.4)})
    assert cost_remarks(found) == []
    found = dataclasses.replace(found, costs={"ViT": dataclasses.replace(COST, mean_share=0.8)})
    (remark,) = cost_remarks(found)
    assert "ViT 2,500 instead of 1,250 images/s (100 %" in plain(remark)


def test_the_speed_of_runs_whose_images_grow_is_that_of_all_their_images() -> None:
    """A third of the images at 400/s and two thirds at 1,600/s are 800/s."""
    (run,) = study({"ViT": 1_000.0}).ranking[0].runs[:1]
    config = {**run.run.config, "data": {"init_args": {"grow": {"start": 16}}}}
    history = run.history.assign(images_per_second=[1_600.0, 1_600.0, 400.0])
    run = dataclasses.replace(run, run=dataclasses.replace(run.run, config=config), history=history)
    assert run.images_per_second == pytest.approx(800.0)


def test_the_speed_of_runs_is_that_of_one_device_after_the_first_epoch() -> None:
    ranking = study({"ViT": 2_000.0}, devices=2).ranking
    assert ranking[0].mean("images_per_second") == pytest.approx(1_000.0)
    assert flops_of(ranking[0], None) == pytest.approx(2_000 * 3e6)  # of the images of both


def test_runs_of_older_versions_say_nothing_of_their_speed() -> None:
    old = results({"ViT": {1: right(0.9)}}, costs={"ViT": COST})
    assert np.isnan(old.ranking[0].mean("images_per_second"))
    assert cost_remarks(old) == []
    assert flops_of(old.ranking[0], COST) == 2_000 * 3e6


def test_what_a_budget_planned_and_the_runs_spent_is_compared() -> None:
    speeds = {"ViT": 1_000.0, "Swin": 1_000.0}
    assert cost_remarks(study(speeds, Budget("flops", 6e9))) == []  # 2,000 images of 3 MFLOP
    (line, _) = cost_remarks(study(speeds, Budget("flops", 6e9), flops=2e6))  # the objective does less than planned
    assert "ViT spent 67 % of its budget of 6e+09 training FLOPs." in plain(line)
    assert cost_remarks(study(speeds, Budget("epochs", 2), seconds=600.0)) == []
    (line, _) = cost_remarks(study(speeds, Budget("images", 1_600)))
    assert "ViT spent 125 % of its budget of 1,600 training images" in plain(line)
    found = study(speeds, Budget("flops", 3e6 * 400))  # of each of five folds
    assert cost_remarks(dataclasses.replace(found, study=dataclasses.replace(found.study, folds=5))) == []


def test_the_tables_have_the_runs_beside_the_measurement() -> None:
    found = study({"ViT": 602.0, "Swin": 990.0}, Budget("flops", 6e9), flops=3.3e6)
    *_, cost, of_a_run, note = cost_section(found, {"accuracy_against_cost": Drawing(None, "", "")})  # type: ignore[arg-type]
    assert isinstance(cost, Table)
    assert isinstance(of_a_run, Table)
    assert [plain(str(cell)) for row in cost.rows for cell in row.cells[3:5]][:2] == ["1,000 [950, 1,050]", "602"]
    assert "Of the budget" in of_a_run.columns
    assert plain(str(of_a_run.rows[0].cells[4])) == "110 %"
    assert "the experiment's own" in str(note)
    assert "32-true eager" in str(note)
    epochs = cost_section(study({"ViT": 602.0}), {"accuracy_against_cost": Drawing(None, "", "")})[2]  # type: ignore[arg-type]
    assert isinstance(epochs, Table)
    assert "Of the budget" not in epochs.columns


def test_compiled_models_beside_eager_ones_are_remarked_on() -> None:
    found = study({"ViT": 1_000.0, "Swin": 1_000.0})
    assert cost_remarks(found) == []
    mixed = dataclasses.replace(found, costs=found.costs | {"Swin": dataclasses.replace(COST, compiled=True)})
    (remark,) = cost_remarks(mixed)
    assert "The cost of Swin was measured compiled, that of ViT eager." in remark
    all_compiled = {name: dataclasses.replace(COST, compiled=True) for name in found.costs}
    assert cost_remarks(dataclasses.replace(found, costs=all_compiled)) == []
    *_, note = cost_section(mixed, {"accuracy_against_cost": Drawing(None, "", "")})  # type: ignore[arg-type]
    assert "32-true eager or 32-true compiled" in str(note)


@pytest.mark.parametrize(
    ("environment", "cost", "expected"),
    [
        (
            {"device": "EPYC", "cores": 2},
            {"device": "EPYC, 2 cores"},
            " (2 runs in parallel on the CPU, 1 thread each)",
        ),
        ({"device": "H200", "cores": 64}, {"device": "H200", "cores": None}, " (2 runs in parallel on each GPU)"),
        ({"device": "EPYC", "cores": 2}, {"device": "H200"}, ""),
        ({"device": "EPYC", "cores": 64}, {"device": "EPYC, 2 cores"}, ""),
    ],
)
def test_how_many_runs_share_a_device_is_told_of_the_machine_that_trained_them(
    environment: dict[str, object], cost: dict[str, object], expected: str
) -> None:
    found = results({"ViT": {1: right(0.9)}}, costs={"ViT": dataclasses.replace(COST, processes=2, **cost)})  # type: ignore[arg-type]
    runs = [dataclasses.replace(run, environment=environment) for run in found.finished]
    found = dataclasses.replace(found, finished=runs)
    *_, note = cost_section(found, {"accuracy_against_cost": Drawing(None, "", "")})  # type: ignore[arg-type]
    assert isinstance(note, Text)
    assert f"time of the runs themselves{expected}, including" in plain(note.text)


def test_a_failed_measurement_is_named(tmp_path: Path) -> None:
    found = dataclasses.replace(study({"ViT": 1_000.0}), costs={}, cost_failures={"ViT": "out of memory"})
    assert cost_remarks(found) == ["ViT: its cost could not be measured (out of memory)."]


def test_quartiles_stand_in_brackets() -> None:
    assert plain(speed(45.0, (31.0, 58.0))) == "45 [31, 58]"
    assert speed(45.0, None) == "45"
