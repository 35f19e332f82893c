"""Random trials whose best settings are planted: what is drawn, chosen and said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import FAKE_PROGRAM, variant
from referee.report.drawing import draw  # before a test leaves the charts empty

from vitlab.studies.compare import compare, results_of
from vitlab.studies.file.space import draw_settings
from vitlab.studies.file.study import read_study
from vitlab.studies.report.tuning import as_tuned, leads_by_trials, scores_of, tuning_chart

Write = Callable[..., Path]
LR = "model.init_args.lr"
SPACE = {LR: [0.1, 0.2, 0.3], "model.init_args.label_smoothing": {"from": 0.01, "to": 0.3}}
DRAWS: dict[str, Any] = {"space": SPACE, "trials": 12, "within": "study"}
# Of three learning rates one is right for A and another one for B; with a wrong one, ten points are lost.
TWO = {"variants": {"A": variant(0.8, best_lr=0.1), "B": variant(0.9, best_lr=0.3)}, "seeds": [1, 2, 3]}


def test_draws_are_those_of_the_first_searches() -> None:
    """Golden: the first two trials that optuna 5.0's random sampler drew for experiments/studies/digits_search.yaml."""
    study = read_study(Path(__file__).parents[2] / "experiments/studies/digits_search.yaml")
    assert study.tuning is not None
    first, second, *_ = study.tuning.candidates(None)
    assert list(first.settings.values()) == [0.002588170214937918, 0.01398866500827661, 0.18082901282149316, 0.0]
    assert list(second.settings.values()) == [0.0034617652930056487, 0.00502389974127297, 0.2675319002346239, 0.0]
    assert [each.seeds for each in study.tuning.candidates(None)] == [[2000 + number] for number in range(24)]


def test_draws_fill_their_ranges() -> None:
    space = {
        "rate": {"from": 0.001, "to": 1.0, "log": True},
        "share": {"from": 0.0, "to": 0.5, "log": False},
        "depth": {"from": 2, "to": 4, "log": False},
        "width": {"from": 8, "to": 64, "log": True},
        "loss": ["a", "b"],
    }
    drawn = draw_settings(space, 400, 3)
    assert draw_settings(space, 400, 3) == drawn
    assert draw_settings(space, 10, 3) == drawn[:10]
    rates, shares = ([each[key] for each in drawn] for key in ("rate", "share"))
    assert 0.4 < sum(rate < 0.0316 for rate in rates) / 400 < 0.6  # half of them below the geometric mean
    assert 0.4 < sum(share < 0.25 for share in shares) / 400 < 0.6
    assert 0.001 <= min(rates) < max(rates) < 1.0
    assert {each["depth"] for each in drawn} == {2, 3, 4}
    assert all(type(each["width"]) is int and 8 <= each["width"] <= 64 for each in drawn)
    assert 0.4 < sum(each["loss"] == "a" for each in drawn) / 400 < 0.6


@pytest.mark.slow
def test_each_variant_is_compared_with_its_best_settings(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(**TWO, tune={**DRAWS, "trials": 24})
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    trials = sorted((tmp_path / "runs/small-study/search/a").glob("*/seed-*/summary.json"))
    assert [(each.parts[-3], each.parts[-2]) for each in trials] == [
        (f"trial-{number + 1:02d}", f"seed-{2000 + number}") for number in range(24)
    ]
    results, _ = results_of(path, tmp_path / "runs")
    by_variant = {result.variant: result.runs[0].run.config["model"]["init_args"] for result in results.ranking}
    assert by_variant["A"]["lr"] == 0.1
    assert by_variant["B"]["lr"] == 0.3
    of_a, of_b = ([trial.settings for trial in choice.trials] for choice in results.choices)
    assert of_a == of_b
    assert as_tuned(results)[0].startswith("Each variant is compared with its best settings of the search")
    assert results.context.trials.runs == 48
    said = "B is better than A at every number of trials up to 24."
    assert said in capsys.readouterr().out
    assert said in report.with_suffix(".md").read_text()
    chart = tuning_chart(results)
    assert chart is not None
    assert "trials" in draw(chart, results, tmp_path).wide

    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/**/summary.json")}
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)  # nothing is left to do
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/**/summary.json")}


def test_equal_variants_are_not_told_apart(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    twins = {"A": variant(0.9, best_lr=0.1), "B": variant(0.9001, best_lr=0.1)}
    path = write_study(variants=twins, seeds=[1, 2, 3], tune=DRAWS)
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    assert leads_by_trials(results) == ["A and B are not distinguished at any number of trials."]


def test_failed_trials_count_as_the_worst_and_are_named(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    variants = {"A": variant(0.8, best_lr=0.1, fail_lr=0.3), "B": variant(0.9, best_lr=0.3)}
    path = write_study(variants=variants, seeds=[1, 2, 3], tune=DRAWS)
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    of_a, of_b = scores_of(results).values()
    assert of_a.failed == sum(trial.settings[LR] == 0.3 for trial in results.choices[0].trials) > 0
    assert of_b.failed == 0
    assert len(of_a.validation) == len(of_b.validation) == 12
    worst = min(trial.score for choice in results.choices for trial in choice.trials if trial.score is not None)
    assert sorted(of_a.validation)[: of_a.failed] == [worst] * of_a.failed
    assert f"Failed trials (A {of_a.failed}) count as the worst of all scores." in report.with_suffix(".md").read_text()


def test_trials_of_other_settings_are_not_taken_for_these(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    compare(write_study(**TWO, tune=DRAWS), tmp_path / "runs", program=FAKE_PROGRAM)
    changed = TWO | {"variants": {"A": variant(0.85, best_lr=0.1), "B": variant(0.9, best_lr=0.3)}}
    with pytest.raises(ValueError, match="with another configuration"):
        compare(write_study(**changed, tune=DRAWS), tmp_path / "runs", program=FAKE_PROGRAM)


def test_trials_without_a_score_are_refused(write_study: Write, tmp_path: Path, in_process: None) -> None:
    study = write_study(**TWO, tune=DRAWS, metric={"name": "rank", "mode": "max"})
    with pytest.raises(ValueError, match="no tuning run of A finished and has a val/rank"):
        compare(study, tmp_path / "runs", program=FAKE_PROGRAM)


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"trials": 8}, "Expected a mapping with a `space` of keys"),
        ({"space": SPACE}, "is a range. Give a number of `trials`"),
        ({"space": SPACE, "trials": 8}, "settings are drawn once for all seeds. Write `within: study`"),
        ({"space": SPACE, "trials": 1}, "tune: trials: 1. Expected a whole number from 2"),
        ({"space": SPACE, "trials": 8, "sampler": "tpe"}, "unknown key of `tune` `sampler`"),
        ({"space": {LR: [0.1]}, "trials": 8}, "Expected a list of values, or {from: 1.0e-4, to: 1.0e-2}"),
        ({"space": {LR: {"from": 0.0, "to": 1.0}}, "trials": 8}, "with numbers above 0"),
        ({"space": {LR: {"from": 1, "until": 2}}, "trials": 8}, "unknown key of `tune: space: "),
        ({"space": {"model.init_args.lrr": [1, 2]}, "trials": 8, "within": "study"}, "has a key `model.init_args.lrr`"),
    ],
)
def test_random_trials_that_cannot_be_are_refused(
    write_study: Write, tmp_path: Path, tune: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(write_study(tune=tune), tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))
