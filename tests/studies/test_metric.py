"""A study ranks by the metric of its objectives' task, whichever it is."""

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from fake_study import FAKE_PROGRAM, measured, results, right, variant
from referee.claim import parse_claim
from referee.report import drawing
from referee.report.document import Table
from scipy.stats import ttest_ind
from sklearn.metrics import balanced_accuracy_score

from tests.conftest import edges
from vitlab.commands.dispatch import run as run_command
from vitlab.config import merge
from vitlab.evaluation.predictions import Predictions
from vitlab.experiment.experiment import Experiment
from vitlab.studies.compare import ResolvedStudy, compare, results_of
from vitlab.studies.file.metric import TOP1, Metric, metric_of
from vitlab.studies.file.runs import Run, plan
from vitlab.studies.file.study import Choice, Trial, Tuning, read_study
from vitlab.studies.report import figures
from vitlab.studies.report.page import write_report
from vitlab.studies.report.sections import _ranking
from vitlab.studies.report.verdict import outlooks, remarks, verdict
from vitlab.studies.results import StudyResults
from vitlab.studies.training.run_all import Active, Display, Progress

RMSE = Metric("rmse", "min", one_class=False)


def scored(metric: Metric, **scores: list[float]) -> StudyResults:
    """Return a study whose runs have these scores of a metric, by variant and seed."""
    study = results({name: dict.fromkeys(range(len(by_seed)), right(0.5, 30)) for name, by_seed in scores.items()})
    finished = []
    for run in study.finished:
        summary = run.summary | {"metrics": {f"test/{metric.name}": scores[run.run.variant][run.run.seed]}}
        history = pd.DataFrame({"epoch": [0, 1], metric.validation: [4.0, 2.0], "train/loss": [2.0, 1.0]})
        own = dataclasses.replace(run.run, metric=metric)
        finished.append(dataclasses.replace(run, run=own, summary=summary, history=history))
    return dataclasses.replace(study, finished=finished, baselines=None, metric=metric)


A, B = [2.0, 2.1, 1.9, 2.0, 2.05, 1.95], [2.5, 2.62, 2.39, 2.51, 2.55, 2.44]


def test_the_lower_error_wins_with_its_interval_over_seeds() -> None:
    study = scored(RMSE, B=B, A=A)
    assert [result.variant for result in study.ranking] == ["A", "B"]
    assert verdict(study).startswith("A is better than B by 0.502 (")
    assert remarks(study) == []
    (pair,) = study.verdict.pairs
    assert pair.lead == pytest.approx(np.mean(B) - np.mean(A))
    # Only seeds vary: the interval is Welch's.
    low, high = ttest_ind(B, A, equal_var=False).confidence_interval(0.95)
    assert pair.interval[1:] == pytest.approx((low, high))
    assert study.target == 2.0
    assert study.ranking[0].seconds_to(2.0) == 60


def test_where_higher_is_better_the_same_numbers_rank_the_other_way() -> None:
    study = scored(Metric("map", "max", one_class=False), A=A, B=B)
    assert verdict(study).startswith("B is better than A by 0.502 (")
    close = scored(Metric("map", "max", one_class=False), A=A, B=[score + 0.03 for score in A])
    assert verdict(close).startswith("No winner yet")
    assert "seeds" in outlooks(close)[0]
    one = scored(RMSE, A=A[:1], B=B[:1])
    assert verdict(one).startswith("A scored lowest (rmse 2.000), but a single seed")


def test_balanced_accuracy_is_known_by_image_and_counts_classes_equally() -> None:
    metric, rng = Metric("balanced_accuracy"), np.random.default_rng(0)
    study = scored(metric, A=[0.0] * 4, B=[0.0] * 4)
    labels = np.repeat([0, 1, 2], [20, 8, 2])
    for run in study.finished:
        logits = 3 * np.eye(3)[labels] + rng.normal(size=(30, 3)) * (1 if run.run.variant == "A" else 3)
        object.__setattr__(run, "predictions", Predictions([*map(str, range(30))], labels, logits))
        guesses = logits.argmax(axis=1)
        assert run.score == pytest.approx(balanced_accuracy_score(labels, guesses))
        assert run.by_image is not None
        assert run.by_image.mean() == pytest.approx(run.score)
    assert study.by_image
    assert study.ranking[0].variant == "A"
    columns, row = next((t.columns, t.rows[0]) for t in _ranking(study, defaultdict(str)) if isinstance(t, Table))
    assert columns[1] == "Balanced accuracy, %"
    assert columns[4:6] == ["Accuracy, %", "Macro F1, %"]
    assert len(row.cells) == len(columns) - 1
    assert figures.ranking(study, drawing.WIDE).axes[0].get_xlabel() == "test balanced accuracy, %"
    assert study.table()["top1"].iloc[0] == study.finished[0].correct.mean()
    accuracy = scored(TOP1, A=[0.5], B=[0.5])
    for run, own in zip(accuracy.finished, study.finished, strict=False):
        object.__setattr__(run, "predictions", own.predictions)
    uneven = "Test classes are uneven, 20 images of cat and 2 of eel, so that"
    assert [line for line in remarks(accuracy) if line.startswith(uneven)]
    assert not [line for line in remarks(study) if "uneven" in line]


def test_the_lowest_error_is_tuned() -> None:
    choice = Choice("A", [Trial({"lr": lr}, score) for lr, score in enumerate((None, 0.9, 0.7, 0.8))], RMSE)
    assert choice.best.settings == {"lr": 2}
    assert not choice.at_the_edge


def test_progress_shows_the_metric() -> None:
    run = Run("A", 1, {"trainer": {"max_epochs": 3}}, Path("a"), RMSE)
    assert "epoch 2/3  val 0.1235" in Display(None, [run]).line(Active(run, 0, Progress(2, 0.12345)))  # type: ignore


def test_variants_of_different_metrics_and_an_objective_without_a_task_are_refused(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = SimpleNamespace(objective=SimpleNamespace(task=None), run=SimpleNamespace(probe=None))
    with pytest.raises(ValueError, match="learns no labels, so no metric ranks its runs"):
        metric_of(nothing)  # type: ignore[arg-type]
    metrics = iter([TOP1, RMSE])
    monkeypatch.setattr("vitlab.studies.file.metric.metric_of", lambda experiment: next(metrics))
    with pytest.raises(ValueError, match=r"rank by accuracy and rmse\. Compare by one metric"):
        plan(read_study(write_study(variants={"A": variant(0.9), "B": variant(0.8)})), tmp_path)


def test_accuracy_is_called_after_the_probe_if_all_variants_are_tested_by_it() -> None:
    probed = SimpleNamespace(objective=SimpleNamespace(task=None), run=SimpleNamespace(probe="knn"))
    knn = metric_of(probed)  # type: ignore[arg-type]
    assert knn.axis() == "test k-NN accuracy, %"
    assert knn.column == "k-NN accuracy, %"
    assert knn == TOP1  # a supervised variant may be compared with it
    runs = [Run(name, 1, {}, Path(name), metric) for name, metric in {"A": knn, "B": TOP1, "C": knn}.items()]
    mixed, alike = (ResolvedStudy(*[None] * 2, some, *[None] * 3) for some in (runs, runs[::2]))  # type: ignore
    assert mixed.metric.label == "accuracy"
    assert alike.metric.label == "k-NN accuracy"
    study = dataclasses.replace(results({"A": {0: right(0.5, 30)}, "B": {0: right(0.6, 30)}}), metric=knn)
    assert {chart.name for chart in figures.charts_for(knn)} == {chart.name for chart in figures.charts_for(TOP1)}
    assert figures.ranking(study, drawing.WIDE).axes[0].get_xlabel() == "test k-NN accuracy, %"


@pytest.mark.slow
def test_a_study_of_another_task_than_classes(
    tiny: Callable[..., Path], tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the YAML to the report: a regression ranks by `val/mae`, the lower the better."""
    here = "tests.objectives.test_task"
    tiny({"model": {"class_path": "Regression"}, "data": {"class_path": f"{here}.Digitwise"}}, "base")
    variants = {name: {"model": {"init_args": {"optimizer": {"init_args": {"lr": lr}}}}} for name, lr in LR.items()}
    content = {"name": "own", "base": "base.yaml", "variants": variants, "seeds": [1, 2], "budget": {"epochs": 1}}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(content, sort_keys=False))
    scores: dict[str, list[float]] = {name: [] for name in LR}
    for run in plan(read_study(study), Path("runs")):
        assert run.metric == Metric("mae", "min", one_class=False)
        Experiment(run.config).fit()
        metrics = json.loads((run.directory / "summary.json").read_text())["metrics"]
        scores[run.variant].append(metrics["test/mae"])
        values = pd.read_parquet(run.directory / "values.parquet")
        for name in ("mae", "rmse"):
            assert values[name].mean() == pytest.approx(metrics[f"test/{name}"], rel=1e-5)

    measured, images = results_of(study)
    best, worst = sorted(LR, key=lambda name: np.mean(scores[name]))
    assert [result.variant for result in measured.ranking] == [best, worst]
    text = write_report(measured, images, Path("runs/own")).with_name("report.md").read_text()
    assert re.search(rf"No winner yet.*{best}|{best} is better than {worst}", text)
    assert "Leads are in test mae (lower is better), with 95\u00a0% intervals over seeds and test images." in text
    assert "| Variant | mae | 95 % interval | Seeds |" in text
    assert "| Validation mae | Last | Best |" in text
    assert not [word for word in ("ccuracy", "k-NN", "Calibration", "McNemar", "NLL") if word in text]
    table = pd.read_csv("runs/own/results.csv")
    assert table["mae"].tolist() == pytest.approx([*scores["low"], *scores["high"]])
    capsys.readouterr()
    assert run_command("robustness", ["runs/own"]) == 2
    assert "one class per image" in capsys.readouterr().err


LR = {"low": 1.0e-6, "high": 1.0e-3}


QUICKSTART = Path(__file__).parents[2] / "experiments" / "studies" / "quickstart.yaml"


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("accurcy", "max", r"there is no accurcy\. Known: .*top1, top5"),
        ("tp1", "max", r"there is no tp1\. Did you mean `top1`\?"),
        ("top1", "min", "top1 is better where it is higher, so its mode is max"),
    ],
)
def test_a_metric_that_does_not_exist_or_points_the_wrong_way_is_refused_before_the_first_run(
    name: str, mode: str, message: str, tmp_path: Path
) -> None:
    study = dataclasses.replace(read_study(QUICKSTART), metric={"name": name, "mode": mode})
    with pytest.raises(ValueError, match=message):
        plan(study, tmp_path)


@pytest.mark.parametrize("name", ["train/loss", *edges("top1_size_8")])
def test_a_metric_that_there_is_or_may_be_is_taken(name: str, tmp_path: Path) -> None:
    mode = "min" if name == "train/loss" else "max"
    study = dataclasses.replace(read_study(QUICKSTART), metric={"name": name, "mode": mode})
    assert plan(study, tmp_path)[0].metric.name == name


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("top1 above chnce", r"needs: top1 above chnce: there is no chnce\. There are .*chance, .*top5"),
        ("chance above 0.05", r"there is no chance\."),  # a line, and no quantity of a run
        ("score above untrained", r"(?s)only probes measure features before it.*Let run\.probe rank"),
        ("top5 above 0.9", None),
        *edges(("top1_size_8 above top1", None)),
    ],
)
def test_a_claim_that_needs_what_no_run_will_have_is_refused_before_the_first_run(
    needs: str, message: str | None, tmp_path: Path
) -> None:
    study = read_study(QUICKSTART)
    texts = dict.fromkeys(("sentence", "source", "differs", "doubt"), "…")
    first, second, *_ = study.variants
    claim = parse_claim({**texts, "order": f"{first} > {second}", "needs": needs}, study.variants, 1.0)
    study = dataclasses.replace(study, claim=claim)
    if message is None:
        assert plan(study, tmp_path)
    else:
        with pytest.raises(ValueError, match=message):
            plan(study, tmp_path)


@pytest.mark.slow(edge=True)
def test_needs_are_asked_of_the_variants_in_the_order_and_their_metric(tmp_path: Path) -> None:
    study = read_study(QUICKSTART)
    first, second, third = study.variants
    texts = dict.fromkeys(("sentence", "source", "differs", "doubt"), "…")
    content = {**texts, "order": f"{first} > {second}"}

    def planned(need: str, run: dict, trainer: dict, **changes: Any) -> list[Run]:
        probed = {name: merge(study.variants[name], {"run": run, "trainer": trainer}) for name in (first, second)}
        needs = parse_claim({**content, "needs": need}, study.variants, 1.0)
        variants = {**probed, third: study.variants[third]}
        return plan(dataclasses.replace(study, variants=variants, claim=needs, **changes), tmp_path)

    assert planned("score above untrained", {"probe": "knn"}, {})  # the third has no probe
    with pytest.raises(ValueError, match="a frozen network has no training"):
        planned("score above untrained", {"probe": "knn"}, {"max_epochs": 0})
    with pytest.raises(ValueError, match="there is no chance"):
        planned("all variants train", {}, {}, metric={"name": "loss", "mode": "min"})


@pytest.mark.slow(edge=True)
def test_tuning_by_a_probe_s_accuracy_is_refused_before_the_first_run(tmp_path: Path) -> None:
    """A probe runs once, after the training: no validation accuracy could choose."""
    study = read_study(QUICKSTART.parents[1] / "claims" / "momentum_teacher.yaml")
    lr = "model.init_args.optimizer.init_args.lr"
    tuned = dataclasses.replace(
        study, tuning=Tuning.model_validate({"space": {lr: [5.0e-4, 1.0e-3]}}).beside(study.seeds)
    )
    with pytest.raises(ValueError, match=r"(?s)tune: DINO logs no k-NN accuracy of .*KnnMonitor"):
        plan(tuned, tmp_path)
    assert plan(dataclasses.replace(tuned, metric={"name": "val/knn", "mode": "max"}), tmp_path)


@pytest.mark.slow
def test_a_metric_that_nobody_logged_ends_the_study_after_its_first_run(
    write_study: Callable[..., Path], tmp_path: Path
) -> None:
    """What a class of somebody else logs is known only then."""
    study = write_study(metric={"name": "accurcy", "mode": "max"}, seeds=[1, 2, 3], jobs=1)
    for _ in range(2):  # and at once, when it is started again
        with pytest.raises(ValueError, match=r"has no test/accurcy; rank by one of top1"):
            compare(study, tmp_path, program=FAKE_PROGRAM)
    assert len(list(tmp_path.glob("small-study/*/seed-*/summary.json"))) == 1


def test_values_by_image_make_the_interval_one_over_images_too() -> None:
    """Of two variants whose values differ from image to image, and little from seed to seed."""
    rng = np.random.default_rng(0)
    hard = rng.normal(0.5, 0.1, (2, 200))
    metric = Metric("jaccard", "max")
    study = results({name: {seed: right(0.5, 200) for seed in range(4)} for name in "AB"}, metric=metric)
    with_values, without = [], []
    for each in study.finished:
        values = hard["AB".index(each.run.variant)] + rng.normal(0, 0.001, 200)
        run = dataclasses.replace(each.run, metric=metric)
        known = dataclasses.replace(
            each, run=run, summary=each.summary | {"metrics": {"test/jaccard": float(values.mean())}}
        )
        table = pd.DataFrame({"jaccard": values}, index=each.predictions.images)
        with_values.append(dataclasses.replace(known, values=table.iloc[::-1]))  # in another order
        without.append(known)
    by_image, by_seed = (dataclasses.replace(study, finished=finished) for finished in (with_values, without))
    assert (by_image.by_image, by_seed.by_image) == (True, False)
    intervals = [study.verdict.pairs[0].interval for study in (by_image, by_seed)]
    widths = [interval.high - interval.low for interval in intervals]
    assert widths[0] == pytest.approx(2 * 1.96 * np.sqrt((hard[0] - hard[1]).var(ddof=1) / 200), rel=0.1)
    assert widths[1] < widths[0] / 10
    assert [dataclasses.replace(study, finished=[*with_values[:-1], without[-1]]).by_image] == [False]
    other = dataclasses.replace(with_values[0], summary={"metrics": {"test/jaccard": 0.9}, "seconds": 1.0})
    assert other.by_image is None  # values of another test than the summary


def test_a_ratio_is_compared_by_its_logarithm_and_a_lead_is_a_factor() -> None:
    """By scipy's Welch test of the logarithms."""
    metric = Metric("growth", "min", one_class=False, is_log=True)
    growth = {"A": [2.0, 2.5, 1.8, 2.2], "B": [9.0, 14.0, 7.0, 30.0]}
    study = measured(results({name: {seed: right(0.5, 50) for seed in range(4)} for name in growth}), metric, growth)
    study = dataclasses.replace(study, study=dataclasses.replace(study.study, metric={"scale": "log"}, margin=1.5))
    logs = [np.log(values) for values in growth.values()]
    expected = ttest_ind(logs[1], logs[0], equal_var=False)
    low, high = np.exp(expected.confidence_interval())
    (pair,) = study.verdict.pairs
    assert pair.p == pytest.approx(expected.pvalue)
    geometric = np.exp(logs[1].mean() - logs[0].mean())
    assert f"A is better than B by a factor of {geometric:.2f} ({low:.2f} to {high:.2f})" in verdict(study)
    assert study.verdict.margin == pytest.approx(np.log(1.5))
    assert study.table()["growth"].tolist() == pytest.approx([*growth["A"], *growth["B"]])
    averaged = [
        dataclasses.replace(e, summary=e.summary | {"metrics": e.summary["metrics"] | {"test_ema/growth": 1.9}})
        for e in study.finished
    ]
    assert dataclasses.replace(study, finished=averaged).table()["growth_ema"].tolist() == pytest.approx([1.9] * 8)
    none = dataclasses.replace(study.finished[0], summary={"metrics": {"test/growth": 0.0}, "seconds": 1.0})
    with pytest.raises(ValueError, match=r"test/growth is 0, which has no logarithm\. Remove `scale: log`"):
        _ = none.score


def test_a_margin_of_a_logarithmic_scale_is_a_factor(write_study: Callable[..., Path]) -> None:
    metric = {"name": "rank", "mode": "max", "scale": "log"}
    with pytest.raises(ValueError, match=r"margin: 0\.5 is a factor where the metric has `scale: log`"):
        read_study(write_study(metric=metric, margin=0.5))
    with pytest.raises(ValueError, match=r"metric: scale: 'sqrt'. It should be 'log'"):
        read_study(write_study(metric=metric | {"scale": "sqrt"}))
