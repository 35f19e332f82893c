"""What a study's budget buys each variant, with rehearsals that only leave what is read of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from fake_study import Digits, variant

from vitlab.config import Config, merge
from vitlab.evaluation.cost import Cost
from vitlab.studies.budget import Epoch
from vitlab.studies.execution.local import Outcome
from vitlab.studies.execution.rehearsal import LEAST, pace_of
from vitlab.studies.grid import Run, _in_proportion, differing_keys, plan
from vitlab.studies.prepared import first_runs
from vitlab.studies.spending import epoch_of, spend_budget
from vitlab.studies.study import read_study

Write = Callable[..., Path]
VARIANTS = {"A": variant(0.9), "B": variant(0.8, size=2.0)}


def measure(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    """Let a step of A train 2,400 images/s at 1 MFLOP, of B 1,200 at 3 MFLOP."""
    speed, flops = {"A": 2_400.0, "B": 1_200.0}, {"A": 1_000_000, "B": 3_000_000}
    return {
        run.variant: Cost(1, 1, flops[run.variant], speed[run.variant], 1, 1, 1, None, None, 64, 30, "fake", 1, "2.15")
        for run in runs
    }, {}


def refuse(runs: Sequence[Run]) -> tuple[dict[str, Cost], dict[str, str]]:
    raise AssertionError("nothing was to be measured")


class Rehearsals:
    """Trains nothing: loading halves the measured speed, the first epoch takes a second longer, validation 0.1 s."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def __call__(self, runs: list[Run]) -> list[Outcome]:
        self.runs += runs
        for run in runs:
            write_run(run.directory, run.epochs, 1_200.0 if run.variant == "A" else 600.0)
        return [Outcome(run, None) for run in runs]


def write_run(directory: Path, epochs: int, speed: float, validation: float = 0.1, start: float = 1.0) -> None:
    directory.mkdir(parents=True)
    first = 896 / (896 / speed + start)
    rows = [f"{epoch},{first if epoch == 0 else speed},\n{epoch},,0.9" for epoch in range(epochs)]
    (directory / "metrics.csv").write_text("\n".join(["epoch,images_per_second,val/top1", *rows]) + "\n")
    seconds = start + epochs * (896 / speed + validation)
    (directory / "summary.json").write_text(json.dumps({"images_seen": 896 * epochs, "seconds": seconds}))


@pytest.fixture
def spend(write_study: Write, digits: Digits, tmp_path: Path) -> Callable[..., dict[str, tuple]]:
    def of(
        budget: dict[str, float],
        measure: Callable = measure,
        train: Callable = refuse,
        jobs: int = 2,
        variants: dict[str, Config] = VARIANTS,
    ) -> dict[str, tuple]:
        study = read_study(write_study(budget=budget, variants=variants))
        runs = first_runs(study, plan(study, tmp_path))
        decided = spend_budget(study, runs, lambda _: len(digits.labels("train")), measure, train, jobs, tmp_path)
        return {
            run.variant: (run.epochs, run.config["trainer"].get("limit_train_batches"))
            for run in plan(study, tmp_path, decided)
        }

    return of


def test_equal_flops_are_fewer_epochs_for_the_dearer_variant(spend: Callable[..., dict]) -> None:
    # 900 training images, of which 28 batches of 32 are an epoch: 8,064 and 2,688 images.
    assert spend({"flops": 8.064e9}) == {"A": (9, None), "B": (3, None)}


def test_minutes_are_those_of_runs_with_loading_validation_and_start(spend: Callable[..., dict]) -> None:
    # 1 s of start, and in each epoch 0.1 s of validation and 896 / 1,200 s or 896 / 600 s of training.
    seconds = 1 + 20 * (896 / 1200 + 0.1)
    found = spend({"minutes": seconds / 60}, refuse, Rehearsals())
    assert found["A"] == (20, None)
    epochs, batches = found["B"]  # 10.6 epochs, which whole ones would miss by 3 %
    assert 11 <= epochs <= 14
    assert 1 + epochs * (32 * batches / 600 + 0.1) == pytest.approx(seconds, rel=0.03)


def test_rehearsals_take_a_quarter_of_the_budget_or_a_minute_with_as_many_runs_as_the_jobs_need(
    spend: Callable[..., dict], tmp_path: Path
) -> None:
    rehearsals = Rehearsals()
    spend({"minutes": 0.5}, refuse, rehearsals, jobs=4)
    # An epoch takes 0.85 and 1.59 s, of which 7.5 s are 9 and 5. Two variants fill four jobs twice.
    assert [(run.variant, run.seed, run.epochs) for run in rehearsals.runs] == [
        *(("A", 0, LEAST), ("B", 0, LEAST), ("A", 1, LEAST), ("B", 1, LEAST)),
        *(("A", 0, 9), ("B", 0, 5), ("A", 1, 9), ("B", 1, 5)),
    ]
    assert all(run.config["run"]["test"] is False for run in rehearsals.runs)
    assert not (tmp_path / "rehearsal").exists()  # their result is in budget.json
    known = json.loads((tmp_path / "budget.json").read_text())
    assert known["pace"]["A"] == pytest.approx({"image": 1 / 1200, "epoch": 0.1, "run": 1.0})
    for minutes, expected in ((0.08, [LEAST, LEAST]), (60.0, [LEAST, LEAST, 71, 38])):
        rehearsals = Rehearsals()
        spend({"minutes": minutes}, refuse, rehearsals, jobs=1)
        assert [run.epochs for run in rehearsals.runs] == expected


def test_a_failed_rehearsal_is_named_and_can_be_looked_into(spend: Callable[..., dict], tmp_path: Path) -> None:
    def fail(runs: list[Run]) -> list[Outcome]:
        runs[1].folder.mkdir(parents=True)
        return [Outcome(runs[0], None), Outcome(runs[1], "exit status 1: boom")]

    with pytest.raises(ValueError, match=r"study\.yaml: the rehearsal of B failed \(exit status 1: boom\); see .*log"):
        spend({"minutes": 1}, train=fail)
    assert (tmp_path / "rehearsal" / "first" / "b").is_dir()
    assert not (tmp_path / "budget.json").exists()


def test_the_pace_of_a_run_separates_batches_validation_and_start(tmp_path: Path) -> None:
    write_run(tmp_path / "run", 5, speed=700.0, validation=0.4, start=2.5)
    assert pace_of(tmp_path / "run") == pytest.approx((1 / 700, 0.4, 2.5))


def test_an_epoch_has_whole_optimizer_steps_on_all_devices() -> None:
    def of(**trainer: object) -> Epoch:
        return epoch_of({"data": {"init_args": {"batch_size": 64}}, "trainer": trainer}, 900)

    assert of() == of(devices="auto") == of(devices=1) == Epoch(14, 64)
    assert of(devices=2) == of(devices=[0, 1]) == Epoch(7, 128)
    assert of(devices=2, num_nodes=2, accumulate_grad_batches=2) == Epoch(2, 256, 2)
    assert of(limit_train_batches=0.5) == of(limit_train_batches=7) == Epoch(7, 64)


def test_the_warm_up_keeps_its_share_of_the_epochs(write_study: Write, digits: Digits, tmp_path: Path) -> None:
    # The base trains 3 epochs, of which 0.6 warm up; a budget of 10 makes it 2.
    warm = variant(0.9)
    warm["model"]["init_args"]["schedule"] = {"class_path": "x.Cosine", "init_args": {"warmup_epochs": 0.6}}
    study = read_study(write_study(budget={"images": 8960}, variants={"A": warm, "B": variant(0.8)}))
    decided = spend_budget(study, first_runs(study, plan(study, tmp_path)), lambda _: 900, refuse, refuse, 1, tmp_path)
    chosen = plan(study, tmp_path, decided)[0].config
    assert chosen["trainer"]["max_epochs"] == 10
    assert chosen["model"]["init_args"]["schedule"]["init_args"] == {"warmup_epochs": pytest.approx(2)}

    endless = {**warm, "trainer": {"max_epochs": None}}
    study = read_study(write_study(budget={"images": 8960}, variants={"A": endless, "B": variant(0.8)}))
    with pytest.raises(
        ValueError, match=r"study\.yaml: budget: .*warmup_epochs is 0\.6, but trainer\.max_epochs is not set"
    ):
        spend_budget(study, first_runs(study, plan(study, tmp_path)), lambda _: 900, refuse, refuse, 1, tmp_path)


@pytest.mark.parametrize(("images", "every"), [(900, 3), (90, 47), (4000, 1)])
def test_a_run_of_many_short_epochs_is_validated_as_often_as_the_base(
    write_study: Write, tmp_path: Path, images: int, every: int
) -> None:
    # The base trains 6 epochs and is validated after each second one. The budget makes 10, 140 and 2.
    base = merge(variant(0.9), {"trainer": {"max_epochs": 6, "check_val_every_n_epoch": 2}})
    study = read_study(write_study(budget={"images": 8960}, variants={"A": base, "B": variant(0.8)}))
    drafts = first_runs(study, plan(study, tmp_path))
    decided = spend_budget(study, drafts, lambda _: images, refuse, refuse, 1, tmp_path)
    chosen = plan(study, tmp_path, decided)[0].config["trainer"]
    assert chosen["check_val_every_n_epoch"] == every

    record = json.loads((tmp_path / "budget.json").read_text())
    del record["validated"]  # a study of an earlier version goes on with the interval that it has
    (tmp_path / "budget.json").write_text(json.dumps(record))
    decided = spend_budget(study, drafts, lambda _: images, refuse, refuse, 1, tmp_path)
    assert plan(study, tmp_path, decided)[0].config["trainer"]["check_val_every_n_epoch"] == 2


def test_what_a_budget_scales_may_differ_as_far_as_the_epochs_do(write_study: Write, tmp_path: Path) -> None:
    warmup = "model.init_args.schedule.init_args.warmup_epochs"
    every = "trainer.check_val_every_n_epoch"

    def departures(longer: Config, **budget: float) -> dict[str, bool]:
        own = {
            name: merge(variant(score), {"model": {"init_args": {"schedule": {"init_args": {"warmup_epochs": 0.6}}}}})
            for name, score in (("A", 0.8), ("B", 0.9))
        }
        size = {"model": {"init_args": {"backbone": {"init_args": {"size": 3.0}}}}}  # a third of the epochs, by FLOPs
        variants = {"A": merge(own["A"], size), "B": merge(own["B"], longer)}
        study = read_study(write_study(budget=budget, variants=variants, may_differ=["model.init_args.backbone"]))
        drafts = first_runs(study, plan(study, tmp_path))
        decided = spend_budget(study, drafts, lambda _: 900, measure, refuse, 1, tmp_path)
        return {each.key: each.declared for each in differing_keys(study, plan(study, tmp_path, decided))}

    assert departures({}, flops=8.0e10) == {
        "model.init_args.backbone.init_args.accuracy": True,
        "model.init_args.backbone.init_args.size": True,
        "trainer.max_epochs": True,
        warmup: True,
        every: True,
    }
    # A variant with epochs of its own would warm up, and be validated, for another share of its training.
    found = departures({"trainer": {"max_epochs": 24}}, flops=8.0e10)
    assert not found[warmup]
    assert not found[every]

    def scaled(**budget: float) -> list[str]:
        return read_study(write_study(budget=budget)).in_proportion

    assert scaled(images=8960) == scaled(flops=8.0e9) == [warmup, every]
    assert scaled(minutes=1) == [warmup]
    assert scaled(epochs=4) == []


def test_only_an_interval_of_whole_epochs_is_rounded() -> None:
    epochs = {"A": 10, "B": 20}
    assert _in_proportion({"A": 1.0, "B": 2.0}, epochs)
    assert not _in_proportion({"A": 1.0, "B": 0.5}, epochs)
    assert _in_proportion({"A": 1, "B": 1}, epochs)  # of 0.6 and 1.2, the first at least 1
    assert not _in_proportion({"A": 2, "B": 1}, epochs)


def test_what_a_budget_buys_is_decided_once(spend: Callable[..., dict], tmp_path: Path) -> None:
    flops = {"flops": 8.064e9}
    found = spend(flops)
    assert spend(flops, refuse) == found
    record = tmp_path / "budget.json"
    known = json.loads(record.read_text())
    configs = {name: {key: config[key] for key in ("model", "data")} for name, config in known["configs"].items()}
    record.write_text(json.dumps({"budget": known["budget"], "configs": configs, "epochs": known["epochs"]}))
    assert spend(flops, refuse) == found  # an older version's
    for other in ({"flops": 9.0e9}, flops):
        with pytest.raises(AssertionError, match="nothing was to be measured"):
            spend(other, refuse, variants={**VARIANTS, "B": variant(0.7)})


def test_images_and_epochs_need_no_measurement(spend: Callable[..., dict]) -> None:
    assert spend({"images": 2688}, refuse) == spend({"epochs": 3}, refuse) == {"A": (3, None), "B": (3, None)}


def test_a_budget_that_cannot_be_spent_is_named(spend: Callable[..., dict]) -> None:
    with pytest.raises(ValueError, match=r"study\.yaml: a budget of 1e\+05 training FLOPs is 0\.00011 epochs"):
        spend({"flops": 1.0e5})
    with pytest.raises(ValueError, match="the cost of B could not be measured \\(out of memory\\)"):
        spend({"flops": 1.0e9}, lambda runs: ({}, {"B": "out of memory"}))
