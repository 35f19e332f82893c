"""Searches whose best settings are planted: what is tried, chosen and said."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_study import FAKE_PROGRAM, variant
from referee.report.drawing import draw  # before a test leaves the charts empty

from vitlab.studies.compare import compare, results_of
from vitlab.studies.report.search import budgets, scores_of, search_chart
from vitlab.studies.search_space import parse_search

Write = Callable[..., Path]
LR = "model.init_args.lr"
SPACE = {LR: [0.1, 0.2, 0.3], "model.init_args.label_smoothing": {"from": 0.01, "to": 0.3}}
SEARCH: dict[str, Any] = {"space": SPACE, "trials": 12}
# Of three learning rates one is right for A and another one for B; with a wrong one, ten points are lost.
TWO = {"variants": {"A": variant(0.8, best_lr=0.1), "B": variant(0.9, best_lr=0.3)}, "seeds": [1, 2, 3]}


@pytest.mark.parametrize("sampler", ["random", "sobol", "tpe"])
def test_the_same_seed_draws_the_same_settings(sampler: str) -> None:
    search = parse_search({**SEARCH, "sampler": sampler}, [1, 2])
    assert search is not None
    scores = [0.5, 0.7, None, 0.6, 0.8, 0.1, 0.4]
    drawn = search.settings(scores)
    assert drawn == search.settings(scores)
    assert len(drawn) == (8 if sampler == "tpe" else 12)
    assert all(0.01 <= each["model.init_args.label_smoothing"] <= 0.3 for each in drawn)
    assert {each[LR] for each in drawn} <= {0.1, 0.2, 0.3}
    if sampler == "tpe":
        assert search.settings([]) == drawn[:1]
        assert search.settings([0.5, 0.7]) == drawn[:3]


def test_tpe_draws_more_where_earlier_trials_were_good() -> None:
    search = parse_search({"space": {LR: {"from": 0.001, "to": 1.0}}, "trials": 40, "sampler": "tpe"}, [])
    assert search is not None
    scores: list[float | None] = []
    while len(scores) < 40:  # good near 0.1
        drawn = search.settings(scores)[len(scores)]
        scores.append(0.9 - abs(drawn[LR] - 0.1))
    late = [each[LR] for each in search.settings(scores)[20:]]
    assert sum(0.03 < lr < 0.3 for lr in late) > 13  # of 20; a random draw is there in a third of trials


def test_each_variant_is_compared_with_its_best_settings(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_study(**TWO, search={**SEARCH, "trials": 24})
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    trials = sorted((tmp_path / "runs/small-study/search/a").glob("*/seed-*/summary.json"))
    assert [(each.parts[-3], each.parts[-2]) for each in trials] == [
        (f"trial-{number + 1:02d}", f"seed-{2000 + number}") for number in range(24)
    ]
    results, _ = results_of(path, tmp_path / "runs")
    by_variant = {result.variant: result.runs[0].run.config["model"]["init_args"] for result in results.ranking}
    assert by_variant["A"]["lr"] == 0.1
    assert by_variant["B"]["lr"] == 0.3
    assert results.searched[0].settings == results.searched[1].settings
    said = "B is better than A at every number of trials up to 24."
    assert said in capsys.readouterr().out
    assert said in report.with_suffix(".md").read_text()
    chart = search_chart(results)
    assert chart is not None
    assert "trials" in draw(chart, results, tmp_path).wide

    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/**/summary.json")}
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)  # nothing is left to do
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/**/summary.json")}


def test_tpe_searches_for_each_variant_and_continues(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    path = write_study(**TWO, search={**SEARCH, "trials": 14, "sampler": "tpe"})  # it learns from the eleventh on
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    first, _ = results_of(path, tmp_path / "runs")
    assert first.searched[0].settings != first.searched[1].settings
    (tmp_path / "runs/small-study/search/a/trial-05/seed-2004/summary.json").unlink()
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    again, _ = results_of(path, tmp_path / "runs")
    assert again.searched == first.searched


def test_equal_variants_are_not_told_apart(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    twins = {"A": variant(0.9, best_lr=0.1), "B": variant(0.9001, best_lr=0.1)}
    path = write_study(variants=twins, seeds=[1, 2, 3], search=SEARCH)
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    assert budgets(results) == ["A and B are not distinguished at any number of trials."]


def test_as_many_trials_of_each_variant_are_pruned(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    path = write_study(**TWO, search={**SEARCH, "prune": {"after": 2, "keep": 0.25}})
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    for name in ("a", "b"):
        assert len(list((tmp_path / "runs/small-study/search" / name).glob("*/seed-*/summary.json"))) == 3
    results, _ = results_of(path, tmp_path / "runs")
    for each, best in zip(results.searched, (0.1, 0.3), strict=True):
        assert sum(score is not None for score in each.test) == 3
        assert None not in each.validation
        assert each.settings[each.chosen][LR] == best

    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/**/metrics.csv")}
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)  # nothing is left to do
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/**/metrics.csv")}


def test_a_trial_that_was_kept_and_failed_is_not_taken_for_a_pruned_one(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    variants = {"A": variant(0.8, best_lr=0.1, fail_late_lr=0.1), "B": variant(0.9, best_lr=0.3)}
    search = {**SEARCH, "prune": {"after": 2, "keep": 0.75}}
    path = write_study(variants=variants, seeds=[1, 2, 3], search=search)
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    of_a, of_b = scores_of(results)
    assert of_a.failed == sum(each[LR] == 0.1 for each in results.searched[0].settings) > 0
    assert of_b.failed == 0


def test_trials_that_end_before_the_pruning_are_complete(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    path = write_study(**TWO, search={**SEARCH, "prune": {"after": 6, "keep": 0.25}}, budget={"epochs": 4})
    compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    for each, best in zip(results.searched, (0.1, 0.3), strict=True):
        assert None not in each.validation + each.test
        assert each.settings[each.chosen][LR] == best


def test_failed_trials_count_as_the_worst_and_are_named(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    variants = {"A": variant(0.8, best_lr=0.1, fail_lr=0.3), "B": variant(0.9, best_lr=0.3)}
    path = write_study(variants=variants, seeds=[1, 2, 3], search=SEARCH)
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    of_a, of_b = scores_of(results)
    assert of_a.failed == sum(each[LR] == 0.3 for each in results.searched[0].settings) > 0
    assert of_b.failed == 0
    assert len(of_a.validation) == len(of_b.validation) == 12
    worst = min(score for each in results.searched for score in each.validation if score is not None)
    assert sorted(of_a.validation)[: of_a.failed] == [worst] * of_a.failed
    assert f"Failed trials (A {of_a.failed}) count as the worst of all scores." in report.with_suffix(".md").read_text()


def test_trials_of_other_settings_are_not_taken_for_these(
    write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    search = {**SEARCH, "prune": {"after": 2, "keep": 0.25}}
    compare(write_study(**TWO, search=search), tmp_path / "runs", program=FAKE_PROGRAM)
    changed = TWO | {"variants": {"A": variant(0.85, best_lr=0.1), "B": variant(0.9, best_lr=0.3)}}
    with pytest.raises(ValueError, match="with another configuration"):
        compare(write_study(**changed, search=search), tmp_path / "runs", program=FAKE_PROGRAM)


def test_trials_without_a_score_are_refused(write_study: Write, tmp_path: Path, in_process: None) -> None:
    study = write_study(**TWO, search=SEARCH, metric={"name": "rank", "mode": "max"})
    with pytest.raises(ValueError, match="no trial of A finished with val/rank and test/rank"):
        compare(study, tmp_path / "runs", program=FAKE_PROGRAM)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"trials": 8}, "Expected a mapping with a `space` of keys and `trials`"),
        ({"space": SPACE}, "search: trials: None. Expected a whole number from 2"),
        ({"space": SPACE, "trials": 8, "sampler": "grid"}, "sampler: 'grid'. Expected one of random, sobol, tpe"),
        ({"space": {LR: [0.1]}, "trials": 8}, "Expected a list of values, or {from: 1.0e-4, to: 1.0e-2}"),
        ({"space": {LR: {"from": 0.0, "to": 1.0}}, "trials": 8}, "with numbers above 0"),
        ({"space": {LR: {"from": 1, "until": 2}}, "trials": 8}, "unknown key of `search: space: "),
        (
            {"space": SPACE, "trials": 8, "prune": {"after": 2}},
            "Expected epochs and a share, like {after: 2, keep: 0.5}",
        ),
        ({"space": SPACE, "trials": 8, "sampler": "tpe", "prune": {"after": 1, "keep": 0.5}}, "TPE chooses one trial"),
        ({"space": {"model.init_args.lrr": [1, 2]}, "trials": 8}, "`model.init_args.lrr` is no key of any variant"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    write_study: Write, tmp_path: Path, search: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare(write_study(search=search), tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))


def test_tune_and_search_exclude_each_other(write_study: Write, tmp_path: Path) -> None:
    changes = {"search": SEARCH, "tune": {"key": LR, "values": [0.1, 0.2]}}
    with pytest.raises(ValueError, match="tune and search both choose settings"):
        compare(write_study(**changes), tmp_path / "runs", program=FAKE_PROGRAM)
