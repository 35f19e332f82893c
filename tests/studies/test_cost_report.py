"""What a report says of costs: where the runs contradict the measurement or the budget."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fake_study import costing, results, right
from referee.formats import NONE
from referee.report.document import Table
from referee.report.drawing import Drawing

from vitlab.studies.file.study import Budget
from vitlab.studies.report.cost import cost_remarks, cost_section, flops_of
from vitlab.studies.results import RunResult, StudyResults


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
    """Return a study of two seeds whose variants trained at these images/s."""
    found = results({name: {1: right(0.9), 2: right(0.91)} for name in speeds})
    runs = [logged(run, speeds[run.run.variant], **rates) for run in found.finished]
    runs = [dataclasses.replace(run, summary={**run.summary, "seconds": seconds}) for run in runs]
    return dataclasses.replace(
        found, finished=runs, study=dataclasses.replace(found.study, budget=budget or found.study.budget)
    )


def test_the_speed_of_runs_whose_images_grow_is_that_of_all_their_images() -> None:
    """A third of the images at 400/s and two thirds at 1,600/s are 800/s."""
    (run,) = study({"ViT": 1_000.0}).ranking[0].runs[:1]
    config = {**run.run.config, "data": {"init_args": {"grow": {"start": 16}}}}
    history = run.history.assign(images_per_second=[1_600.0, 1_600.0, 400.0])
    run = dataclasses.replace(run, run=dataclasses.replace(run.run, config=config), history=history)
    assert run.speeds == pytest.approx([800.0])


def test_the_speed_is_the_median_of_the_epochs_that_the_runs_logged() -> None:
    """Over all seeds, of one device, after the first epoch of each."""
    found = study({"ViT": 2_000.0}, devices=2)
    histories = [[1.0, 400.0, 1_000.0], [1.0, 600.0, 1_400.0]]
    runs = [
        dataclasses.replace(run, history=run.history.assign(images_per_second=speeds))
        for run, speeds in zip(found.finished, histories, strict=True)
    ]
    (variant,) = dataclasses.replace(found, finished=runs).ranking
    assert variant.speed == pytest.approx((275.0, 400.0, 550.0))  # of 200, 300, 500 and 700
    assert flops_of(study({"ViT": 2_000.0}, devices=2).ranking[0]) == pytest.approx(2_000 * 3e6)  # of both devices


def test_runs_of_older_versions_say_nothing_of_their_cost() -> None:
    old = results({"ViT": {1: right(0.9)}})
    assert old.ranking[0].speed is None
    assert cost_remarks(old) == []
    assert flops_of(old.ranking[0]) is None
    _, cost, of_a_run, _ = cost_section(old, {"accuracy_against_cost": Drawing(None, "", "")})  # type: ignore[arg-type]
    assert isinstance(cost, Table)
    assert isinstance(of_a_run, Table)
    assert [str(cell) for cell in cost.rows[0].cells[1:]] == 7 * [NONE]
    assert str(of_a_run.rows[0].cells[2]) == NONE


def test_what_a_budget_planned_and_the_runs_spent_is_compared() -> None:
    speeds = {"ViT": 1_000.0, "Swin": 1_000.0}
    assert cost_remarks(study(speeds, Budget(flops=6e9))) == []  # 2,000 images of 3 MFLOP
    (line, _) = cost_remarks(study(speeds, Budget(flops=6e9), flops=2e6))  # the objective does less than planned
    assert "ViT spent 67 % of its budget of 6e+09 training FLOPs." in plain(line)
    assert cost_remarks(study(speeds, Budget(epochs=2), seconds=600.0)) == []
    (line, _) = cost_remarks(study(speeds, Budget(images=1_600)))
    assert "ViT spent 125 % of its budget of 1,600 training images" in plain(line)
    found = study(speeds, Budget(flops=3e6 * 400))  # of each of five folds
    assert cost_remarks(dataclasses.replace(found, study=dataclasses.replace(found.study, folds=5))) == []


def test_the_tables_have_what_the_runs_logged() -> None:
    found = costing(study({"ViT": 602.0}, Budget(flops=6e9), flops=3.3e6), ViT={"train_peak_bytes": 4e6})
    *_, cost, of_a_run, note = cost_section(found, {"accuracy_against_cost": Drawing(None, "", "")})  # type: ignore[arg-type]
    assert isinstance(cost, Table)
    assert isinstance(of_a_run, Table)
    assert [plain(str(cell)) for cell in cost.rows[0].cells[3:7]] == ["602 [602, 602]", "5 %", NONE, "4.00 MB"]
    assert "Of the budget" in of_a_run.columns
    assert plain(str(of_a_run.rows[0].cells[4])) == "110 %"
    assert "Logged by the runs" in str(note)


def test_speeds_that_change_are_remarked_on() -> None:
    assert cost_remarks(study({"ViT": 1_000.0, "Swin": 1_000.0})) == []
    found = study({"ViT": 1_000.0, "Swin": 1_000.0})
    for run in found.finished:
        if run.run.variant == "Swin":
            run.history["images_per_second"] = [100.0, 600.0, 1_000.0]
    (unsteady,) = cost_remarks(found)
    assert "those of Swin differ by more than a quarter between epochs" in unsteady
