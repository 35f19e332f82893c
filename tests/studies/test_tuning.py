"""Budgets and tuning, with runs that only leave what is read of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from fake_study import FAKE_PROGRAM, Digits, variant

from vitlab.config import Config
from vitlab.evaluation.cost import Cost
from vitlab.studies.compare import compare, first_runs
from vitlab.studies.execution.local import Outcome
from vitlab.studies.metric import TOP1
from vitlab.studies.study import Run, Study, plan, read_study
from vitlab.studies.tuning import (
    Choice,
    Trial,
    refuse_unfit_images,
    spend_budget,
    tune,
)

Write = Callable[..., Path]
TUNE = {"key": "model.init_args.lr", "values": [0.1, 0.2, 0.4]}
VARIANTS = {"A": variant(0.9, best_lr=0.2), "B": variant(0.8, size=2.0, best_lr=0.4)}


def measure(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    """Let A train 2,400 images/s at 1 MFLOP, B 1,200 at 3 MFLOP."""
    speed, flops = {"A": 2_400.0, "B": 1_200.0}, {"A": 1_000_000, "B": 3_000_000}
    return {
        run.variant: Cost(1, 1, flops[run.variant], speed[run.variant], 1, 1, 1, None, None, 64, 30, "fake", 1, "2.15")
        for run in runs
    }, {}


def refuse(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    raise AssertionError("nothing was to be measured")


@pytest.fixture
def spend(write_study: Write, digits: Digits, tmp_path: Path) -> Callable[..., dict[str, Config]]:
    def of(budget: dict[str, float], measure: Callable = measure, variants: dict[str, Config] = VARIANTS) -> dict:
        study = read_study(write_study(budget=budget, variants=variants))
        runs = first_runs(study, plan(study, tmp_path))
        decided = spend_budget(study, runs, digits, measure, tmp_path)
        return {run.variant: run.epochs for run in plan(study, tmp_path, decided)}

    return of


def test_equal_wall_clock_or_flops_are_fewer_epochs_for_the_dearer_variant(spend: Callable[..., dict]) -> None:
    # 900 training images. 3.75 s buy 9,000 and 4,500 of them; 8.1 GFLOP 8,100 and 2,700.
    assert spend({"minutes": 3.75 / 60}) == {"A": 10, "B": 5}
    assert spend({"flops": 8.1e9}) == {"A": 9, "B": 3}


def test_the_warm_up_keeps_its_share_of_the_epochs(write_study: Write, digits: Digits, tmp_path: Path) -> None:
    # The base trains 3 epochs, of which 0.6 warm up; a budget of 10 makes it 2.
    warm = variant(0.9)
    warm["model"]["init_args"]["schedule"] = {"class_path": "x.Cosine", "init_args": {"warmup_epochs": 0.6}}
    study = read_study(write_study(budget={"images": 9000}, variants={"A": warm, "B": variant(0.8)}))
    decided = spend_budget(study, first_runs(study, plan(study, tmp_path)), digits, refuse, tmp_path)
    chosen = plan(study, tmp_path, decided)[0].config
    assert chosen["trainer"]["max_epochs"] == 10
    assert chosen["model"]["init_args"]["schedule"]["init_args"] == {"warmup_epochs": pytest.approx(2)}

    endless = {**warm, "trainer": {"max_epochs": None}}
    study = read_study(write_study(budget={"images": 9000}, variants={"A": endless, "B": variant(0.8)}))
    with pytest.raises(
        ValueError, match=r"study\.yaml: budget: .*warmup_epochs is 0\.6, but trainer\.max_epochs is not set"
    ):
        spend_budget(study, first_runs(study, plan(study, tmp_path)), digits, refuse, tmp_path)


def test_what_a_budget_buys_is_decided_once(spend: Callable[..., dict]) -> None:
    spend({"minutes": 3.75 / 60})
    assert spend({"minutes": 3.75 / 60}, refuse) == {"A": 10, "B": 5}
    for other in (
        {"budget": {"minutes": 0.1}},
        {"budget": {"minutes": 3.75 / 60}, "variants": {**VARIANTS, "B": variant(0.7)}},
    ):
        with pytest.raises(AssertionError, match="nothing was to be measured"):
            spend(**other, measure=refuse)


def test_images_and_epochs_need_no_measurement(spend: Callable[..., dict]) -> None:
    assert spend({"images": 2700}, refuse) == spend({"epochs": 3}, refuse) == {"A": 3, "B": 3}


def test_a_budget_that_cannot_be_spent_is_named(spend: Callable[..., dict]) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml: a budget of 1e\+05 training FLOPs is 0\.00011 epochs"):
        spend({"flops": 1.0e5})
    with pytest.raises(ValueError, match="the cost of B could not be measured \\(out of memory\\)"):
        spend({"minutes": 1}, lambda runs: ({}, {"B": "out of memory"}))


@pytest.fixture
def tuned(write_study: Write, tmp_path: Path) -> Callable[..., tuple[Study, list[Choice], dict]]:
    def of(**changes: object) -> tuple[Study, list[Choice], dict[str, Config]]:
        study = read_study(write_study(**{"tune": TUNE, "variants": VARIANTS, **changes}))
        choices, decided = tune(study, tmp_path, {"A": {"trainer": {"max_epochs": 7}}}, train)
        return study, choices, {run.variant: run.config for run in plan(study, tmp_path, decided)}

    return of


def train(runs: list[Run]) -> list[Outcome]:
    """Leave what a run leaves; ten points less where the rate is not the backbone's best, nothing where it fails."""
    for run in runs:
        assert run.config["run"]["test"] is False  # no test image is seen
        lr, plan = run.config["model"]["init_args"]["lr"], run.config["model"]["init_args"]["backbone"]["init_args"]
        if lr != plan.get("fail_lr"):
            directory = Path(run.config["run"]["root"], run.config["run"]["name"], f"seed-{run.seed}")
            assert directory == run.directory
            directory.mkdir(parents=True)
            top1 = plan["accuracy"] - 0.1 * (lr != plan["best_lr"]) + 0.01 * run.seed
            (directory / "metrics.csv").write_text(f"step,epoch,val/top1\n1,0,0.99\n2,1,{top1}\n")
            (directory / "summary.json").write_text("{}")
    return [Outcome(run, None) for run in runs]


def test_each_variant_gets_the_value_that_served_it_best_on_validation_images(tuned: Callable, tmp_path: Path) -> None:
    study, choices, configs = tuned(tune={**TUNE, "seeds": [3, 5]})
    assert {name: config["model"]["init_args"]["lr"] for name, config in configs.items()} == {"A": 0.2, "B": 0.4}
    # The mean of seeds 3 and 5 after the last epoch, not the best one.
    assert [trial.score for trial in choices[0].trials] == pytest.approx([0.84, 0.94, 0.84])
    assert [choice.at_the_edge for choice in choices] == [False, True]
    assert configs["A"]["trainer"]["max_epochs"] == 7  # what the budget bought stays
    assert "model.init_args.lr" in study.allowed
    recorded = json.loads((tmp_path / "small-study" / "tuning" / "choices.json").read_text())
    assert recorded["B"]["trials"][2][0] == 0.4


def test_a_value_that_failed_is_not_chosen(tuned: Callable) -> None:
    _, choices, _ = tuned(variants={"A": variant(0.9, best_lr=0.2, fail_lr=0.2), "B": variant(0.8, best_lr=0.2)})
    assert [choice.best.value for choice in choices] == [0.1, 0.2]


@pytest.mark.slow
def test_a_tuned_study_of_equal_wall_clock_tells_what_was_decided(
    write_study: Write, tmp_path: Path, no_figures: None
) -> None:
    """From the file to the page, with processes; the fakes train 2,400 and 1,200 images/s."""
    path = write_study(tune=TUNE, variants=VARIANTS, seeds=[1], budget={"minutes": 3.75 / 60})
    folder = compare(path, tmp_path / "runs", program=FAKE_PROGRAM).parent
    assert pd.read_csv(folder / "results.csv").set_index("variant")["epochs"].to_dict() == {"A": 10, "B": 5}
    assert yaml.safe_load((folder / "b" / "config-seed-1.yaml").read_text())["model"]["init_args"]["lr"] == 0.4
    for report in ("report.html", "report.md"):
        text = (folder / report).read_text()
        assert "The best value for B, 0.4, is at the edge of those tried." in text
        assert "A was tuned" not in text
        assert "differ in more than the study declares" not in text
        assert "0.0625 minutes of training" in text


def test_the_first_of_equal_values_is_chosen() -> None:
    choice = Choice("A", [Trial(1, None), Trial(2, 0.9), Trial(3, 0.9), Trial(4, 0.8)])
    assert choice.best.value == 2
    assert not choice.at_the_edge
    assert Choice("A", [Trial(1, None), Trial(2, None)]).best.score is None


def test_tuning_on_test_images_is_refused(write_study: Write, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(write_study(tune=TUNE))
    refuse_unfit_images(study, TOP1, digits)
    monkeypatch.setattr(Digits, "image_names", lambda self, split: ["the same"])
    with pytest.raises(ValueError, match="validation images of this data set are also its test images"):
        refuse_unfit_images(study, TOP1, digits)
