"""`python -m vitlab plan`: before any run, from a study's runs, and what it refuses."""

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import fake_vitlab
import numpy as np
import pytest
import torch
from fake_study import variant
from referee.statistics.power import growing
from referee.statistics.sequential import level_after, levels

from vitlab.commands.dispatch import run
from vitlab.config import Config, dump_yaml, load_yaml, merge
from vitlab.studies.compare import compare
from vitlab.studies.file.runs import plan
from vitlab.studies.file.study import read_study
from vitlab.studies.planning import describe, plan_study

Write = Callable[..., Path]
TWO = {"A": variant(0.94), "B": variant(0.95)}


@pytest.fixture
def finished(write_study: Write, tmp_path: Path) -> Path:
    """A study of two variants whose three seeds are trained."""
    path = write_study(variants=TWO)
    for each in plan(read_study(path), tmp_path / "runs"):
        fake_vitlab.fit(each.config, overwrite=False)
    return path


def numbers(text: str, row: str) -> list[float]:
    """Return the numbers of a row of the plan."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(row)]
    return [float(number.replace(",", "")) for number in re.findall(r"[\d,.]*\d", line.partition(row)[2])]


def test_before_any_run_the_plan_states_what_it_assumes(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study = str(write_study(variants=TWO))
    assert run("plan", [study, "--difference", "4", "--root", str(tmp_path / "runs")]) == 0
    text = capsys.readouterr().out
    assert "Variances from a guess for 90 % accuracy" in text
    assert "known once a run has finished" in text
    point, low, high = numbers(text, "seeds of each variant")
    assert low < point < high
    assert numbers(text, "runs") == [2 * point, 2 * low, 2 * high]
    last = re.search(r"`seeds: \{from: 4, to: (\d+)\}`", text)
    assert last is not None
    assert high < int(last[1]) < high + 5  # stopping early takes a stricter level, and so a little more
    assert not (tmp_path / "runs").exists()  # planning writes nothing


def test_finished_runs_tell_variances_hours_and_disk(finished: Path, tmp_path: Path) -> None:
    planned = plan_study(finished, tmp_path / "runs")
    assert planned.finished == 6
    # fake_vitlab: a seed s takes 20 + 3 s seconds, so three take 26 on average; two run at a time.
    assert planned.hours(10).point == pytest.approx(10 * 2 * 26 / 2 / 3600)
    low, high = planned.hours(10)[1:]
    assert low < planned.hours(10).point < high
    sizes = [file.stat().st_size for file in (tmp_path / "runs").rglob("seed-*/*")]
    assert planned.runs(3) * sum(planned.bytes) == pytest.approx(sum(sizes))
    assert math.isnan(planned.kwh(1))
    text = describe(planned, 0.01)
    assert "Variances from 6 finished runs in" in text
    assert "; 6 are finished" in text
    assert "not measured" in text
    table = [line.split()[0] for line in text.partition("found, points")[2].splitlines()[1:7]]
    assert table == ["3", "5", "7", "10", "15", "20"]
    found = [planned.detectable(n).point for n in (3, 5, 7)]
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize(
    ("schedule", "missed"),
    [
        ({"warmup_epochs": 3.0}, "warmup_epochs is 3: all of it is warm-up"),
        ({"warmup_epochs": 1, "milestones": [3, 5]}, "the first of milestones is 3: the rate never falls"),
        ({"warmup_epochs": 2.9}, ""),
    ],
)
def test_a_schedule_as_long_as_the_budget_is_named_before_the_first_run_and_in_the_report(
    schedule: Config,
    missed: str,
    write_study: Write,
    tmp_path: Path,
    in_process: None,
    no_figures: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Although the base's own max_epochs would be enough: the budget replaces it."""
    own = {"model": {"init_args": {"schedule": {"init_args": schedule}}}, "trainer": {"max_epochs": 100}}
    variants = {name: merge(each, {"model": own["model"]}) for name, each in TWO.items()}
    path = write_study(variants={"A": variants["A"], "B": TWO["B"]}, budget={"epochs": 3}, may_differ=["model"])
    base = path.parent / "base.yaml"
    base.write_text(dump_yaml({**load_yaml(base), "trainer": own["trainer"]}))
    planned = describe(plan_study(path, tmp_path / "runs"), None)
    report = compare(path, tmp_path / "runs").with_suffix(".md").read_text()
    before = capsys.readouterr().out.partition("To train")[0]
    for text in (planned, before, report):
        assert (f"A: The run has 3 epochs and {missed}" in text) == bool(missed)
        assert "B: The run" not in text


def test_what_runs_measured_says_the_energy_and_how_many_fit_on_a_gpu(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in (tmp_path / "runs").rglob("seed-*/summary.json"):
        summary = json.loads(file.read_text())
        file.write_text(json.dumps(summary | {"cost": {"train_joules": 7200.0, "train_peak_bytes": 9.4e9}}))
    planned = plan_study(finished, tmp_path / "runs")
    assert planned.kwh(5) == pytest.approx(5 * 2 * 7200 / 2 / 3.6e6)  # two runs share the device
    assert "kWh" in describe(planned, 0.01)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, int(139e9)))
    assert "2 runs at a time; 13 of 9.40 GB fit on a GPU (`jobs`)" in describe(planned, 0.01)


def test_the_plan_says_which_seeds_to_write(finished: Path, tmp_path: Path) -> None:
    planned = plan_study(finished, tmp_path / "runs")
    level = growing((3,), True, "pooled", False)  # it has been looked at with three
    most = dataclasses.replace(planned, pilot=planned.pilot._replace(level=level)).need(0.01).seeds.high
    assert most is not None
    assert f"`seeds: {{from: 3, to: {most}}}`" in describe(planned, 0.01)


def test_the_plan_of_a_study_that_begins_at_another_seed_keeps_to_it(write_study: Write, tmp_path: Path) -> None:
    study = write_study(variants=TWO, seeds={"from": 4, "to": 5, "first": 101})
    assert re.search(r"`seeds: \{from: 4, to: \d+, first: 101\}`", describe(plan_study(study, tmp_path / "runs"), 0.04))


def test_a_watched_study_is_planned_at_its_own_level(write_study: Write, tmp_path: Path) -> None:
    fixed = plan_study(write_study(variants=TWO, seeds=[*range(1, 11)]), tmp_path / "runs")
    watched = plan_study(write_study(variants=TWO, seeds={"from": 4, "to": 10}), tmp_path / "runs")
    assert fixed.pilot.alpha(10) == 0.05
    assert watched.pilot.alpha(10) == watched.pilot.alpha(4) == levels((4, 5, 6, 7, 8, 9, 10))[0]
    assert watched.pilot.alpha(20) == levels(tuple(range(4, 21)))[0] < watched.pilot.alpha(10)
    assert watched.need(0.05).seeds.low >= 4  # its first look
    table = [line.split()[0] for line in describe(watched, 0.02).partition("found, points")[2].splitlines()[1:6]]
    assert table == ["5", "7", "10", "15", "20"]
    assert f"after 4 to 10 seeds; a lead counts at p below {watched.pilot.alpha(4):.3f}" in describe(watched, 0.02)


def test_the_margin_is_the_difference_to_plan_for(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    study = write_study(variants=TWO, margin=2.5)
    assert run("plan", [str(study), "--root", str(tmp_path / "runs")]) == 0
    assert "true difference of 2.5 points" in capsys.readouterr().out


def test_a_list_that_is_extended_pays_for_its_second_look(finished: Path, tmp_path: Path) -> None:
    planned = plan_study(finished, tmp_path / "runs")
    assert "results of 3 seeds were looked at already" in describe(planned, 0.02)
    pilot = planned.pilot
    assert pilot.alpha(3) == 0.05
    assert pilot.alpha(10) == level_after((3, 10)) < 0.04


def test_the_runs_of_tuning_count(finished: Path, write_study: Write, tmp_path: Path) -> None:
    tune = {"space": {"model.init_args.lr": [0.1, 0.2, 0.4]}, "within": "study", "seeds": [8, 9]}
    plain = plan_study(finished, tmp_path / "runs")
    tuned = plan_study(write_study(variants=TWO, tune=tune), tmp_path / "runs")
    assert tuned.runs(5) == 11
    assert tuned.hours(5).point == pytest.approx(plain.hours(11).point)
    by_seed = plan_study(write_study(variants=TWO, tune={"space": tune["space"]}), tmp_path / "runs")
    assert by_seed.runs(5) == 20  # each seed tries three values first


def test_runs_of_another_configuration_are_no_pilot(finished: Path, write_study: Write, tmp_path: Path) -> None:
    longer = write_study(variants=TWO, budget={"epochs": 8})
    planned = plan_study(longer, tmp_path / "runs")
    assert planned.finished == 0
    assert planned.source.startswith("a guess")


def test_unfinished_and_cut_short_runs_are_no_pilot(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "small-study"
    (folder / "b" / "seed-3" / "summary.json").unlink()
    (folder / "a" / "seed-2" / "summary.json").write_text('{"partial": ["tested on 184 of 597 images"]}')
    assert plan_study(finished, tmp_path / "runs").finished == 4
    (folder / "a" / "seed-1" / "predictions.parquet").write_bytes(b"damaged")
    assert plan_study(finished, tmp_path / "runs").finished == 3


def test_seeds_alone_may_not_help(finished: Path, tmp_path: Path) -> None:
    planned = plan_study(finished, tmp_path / "runs")
    sure = planned.pilot.point._replace(images=0.01**2)  # ± 2 points by the choice of images
    pilot = planned.pilot._replace(point=sure, low=sure, high=sure)
    text = describe(type(planned)(**{**vars(planned), "pilot": pilot}), 0.003)
    assert "More seeds alone will not find a true difference of 0.3 points: the choice of 597 test images" in text
    assert "moves it by ± 2 points" in text
    assert "test images; with twice as many," in text
    assert "seeds: {" not in text


def test_without_a_margin_the_study_as_it_is_written_is_planned(finished: Path, tmp_path: Path) -> None:
    planned = plan_study(finished, tmp_path / "runs")
    text, runs = describe(planned, None), len(planned.study.seeds) * len(planned.study.variants)
    assert f"as it is written, {len(planned.study.seeds)} seeds of each variant, takes" in text
    assert re.search(rf"runs +{runs}; {planned.finished} are finished\n +hours .*\n +disk .*B", text)
    assert "Give --difference" in text
    few = dataclasses.replace(planned, pilot=planned.pilot._replace(test_images=13))
    assert "With 13 test images, more pictures, or `folds`, which tests each of them, help more" in describe(few, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--difference", "1"], "plan takes one study"),
        (["STUDY", "--seeds", "9"], "--seeds: the study's file says this; edit `seeds` there, or in a copy."),
        (["STUDY", "--budget.epochs=9"], "--budget.epochs=9: the study's file says this; edit `budget` there"),
        (["STUDY", "--data", "photos"], "--data: the study's file says this; give --data.root FOLDER."),
        (["AXES", "--difference", "1"], "takes a study without an axis"),
    ],
)
def test_a_mistake_is_one_message(
    arguments: list[str], message: str, write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    axes = write_study(variants=TWO, along={"model.init_args.lr": [0.1, 0.4]}).rename(tmp_path / "axes.yaml")
    words = {"STUDY": str(write_study(variants=TWO)), "AXES": str(axes)}
    assert run("plan", [*(words.get(word, word) for word in arguments), "--root", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_hours_hold_the_truth_in_four_of_five_pilots(finished: Path, tmp_path: Path) -> None:
    """Run times of 100 ± 20 seconds: the total of ten more seeds lies in the range that three tell."""
    planned, rng, inside = plan_study(finished, tmp_path / "runs"), np.random.default_rng(0), 0
    for _ in range(300):
        seconds = [rng.normal(100, 20, 3) for _ in planned.study.variants]
        hours = dataclasses.replace(planned, seconds=seconds).hours(10)
        inside += hours.low <= rng.normal(100, 20, 20).sum() / 3600 / planned.jobs <= hours.high
    assert inside > 0.8 * 300 - 14  # two standard errors
