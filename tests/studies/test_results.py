import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from fake_study import measured, plain, result, results, right, seeds
from referee.formats import SPACE
from referee.report.document import Table
from referee.statistics.contrast import t_interval

from vitlab.config import merge
from vitlab.evaluation.predictions import Predictions, write_predictions
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.registration import Outcome
from vitlab.studies.file.runs import Run
from vitlab.studies.report import page, sections
from vitlab.studies.report.verdict import not_beyond_baselines, remarks_above, verdict
from vitlab.studies.results import StudyResults, read_results

LABELS = np.arange(30) % 3


def finished_run(folder: Path, seed: int, images: str = "test", fill: float = 1.0) -> Outcome:
    run = Run("A", seed, {"trainer": {"max_epochs": 1}}, folder)
    run.directory.mkdir(parents=True)
    names = [f"{images}/{index}" for index in range(30)]
    logits = np.full((30, 3), fill, dtype=np.float32)
    write_predictions(run.directory / "predictions.parquet", Predictions(names, LABELS, logits))
    (run.directory / "metrics.csv").write_text("step,epoch,val/top1\n1,0,0.5\n")
    (run.directory / "config.yaml").write_text(yaml.safe_dump(run.config))
    (run.directory / "environment.json").write_text(json.dumps({"torch": "2.15"}))
    (run.directory / "summary.json").write_text(json.dumps({"seconds": 3}))
    return Outcome(run, None)


def test_runs_that_cannot_be_compared_stand_among_the_failures(tmp_path: Path) -> None:
    good = [finished_run(tmp_path, seed) for seed in (1, 2)]
    elsewhere = finished_run(tmp_path, 3, images="other")
    diverged = finished_run(tmp_path, 4, fill=np.nan)
    torn = finished_run(tmp_path, 5)
    (torn.run.directory / "predictions.parquet").write_bytes(b"PAR1")
    failed = Outcome(Run("A", 6, {}, tmp_path), "exit status 1")
    other = finished_run(tmp_path, 7)  # `test --ckpt_path best` has written its predictions anew
    for outcome, top1 in ((good[0], 1 / 3), (other, 0.9)):
        (outcome.run.directory / "summary.json").write_text(json.dumps({"seconds": 3, "metrics": {"test/top1": top1}}))

    finished, failures = read_results([failed, *good, elsewhere, diverged, torn, other])
    assert [result.run.seed for result in finished] == [1, 2]
    reasons = {run.seed: failure for run, failure in failures}
    assert reasons[3] == "was tested on other images or labels than the other runs"
    assert reasons[4] == "its predictions or their score are not finite numbers"
    assert str(reasons[5]).startswith("its results cannot be read")
    assert reasons[6] == "exit status 1"
    assert str(reasons[7]).startswith("its predictions are of other weights or settings; run `test` on ")


@pytest.mark.parametrize("summary", ["[]", "{}", "[" * 100_000, '{"seconds": 3, "metrics": {"test/top1": NaN}}'])
def test_a_summary_that_is_none_is_a_failure_that_names_it(summary: str, tmp_path: Path) -> None:
    good, bad = finished_run(tmp_path, 1), finished_run(tmp_path, 2)
    (bad.run.directory / "summary.json").write_text(summary)
    finished, ((run, why),) = read_results([good, bad])
    assert ([result.run.seed for result in finished], run.seed) == ([1], 2)
    assert str(bad.run.directory / "summary.json") in str(why) or "are not finite numbers" in str(why)


def test_a_ranking_by_validation_images_says_so_everywhere() -> None:
    study = measured(
        results({"A": seeds([0.9, 0.91]), "B": seeds([0.8, 0.82])}),
        Metric("val/top1", "max"), {"A": [0.5, 0.6], "B": [0.7, 0.8]},
    )  # fmt: skip
    for each in study.finished:
        each.data["splits"] = {"val": {"images": 77}}
    said = plain(" ".join([*page._summary(study), *sections._notes_on_ranking(study), *remarks_above(study)]))
    assert said.count("77 validation images") == 2
    assert "validation top1 (higher is better)" in said
    assert "Variants are ranked by val/top1, of validation images" in said
    assert "test top1" not in said
    assert "1,000 test images" not in said


def test_no_variant_above_the_best_baseline_is_said_in_the_headline_and_first() -> None:
    study = results({"A": seeds([0.9, 0.91, 0.9]), "B": seeds([0.8, 0.82, 0.8])})
    assert study.baselines is not None
    near = replace(study, baselines=replace(study.baselines, majority=0.899, knn=0.95))
    assert plain(verdict(near)).endswith("No variant reaches k-NN on raw pixels (95.0 %): A 90.3, B 80.7.")
    assert "No variant reaches" in remarks_above(near)[0]
    assert "No variant" not in verdict(study)


def test_a_run_that_was_cut_short_is_no_result(tmp_path: Path) -> None:
    # summary.json says in `partial` what was left out; of a whole run it is empty, and older versions wrote none.
    whole, older, short = (finished_run(tmp_path, seed) for seed in (1, 2, 3))
    (whole.run.directory / "summary.json").write_text(json.dumps({"seconds": 3, "partial": []}))
    reasons = ["tested on 184 of 736 images", "stopped by max_time"]
    (short.run.directory / "summary.json").write_text(json.dumps({"seconds": 3, "partial": reasons}))
    finished, failures = read_results([whole, older, short])
    assert [result.run.seed for result in finished] == [1, 2]
    assert failures == [
        (short.run, "incomplete run: tested on 184 of 736 images, stopped by max_time (--overwrite retrains it)")
    ]


def test_the_ranking_is_by_mean_accuracy_and_keeps_each_variants_color() -> None:
    study = results({"A": {1: right(0.8), 2: right(0.9)}, "B": {1: right(0.95), 2: right(0.93)}})
    assert [(r.variant, r.index, round(r.score.mean, 6)) for r in study.ranking] == [("B", 1, 0.94), ("A", 0, 0.85)]


def test_a_paired_test_ranks_by_the_seeds_that_it_compares() -> None:
    """A's fifth seed has no partner in B, and would lift A above the variant that it loses to in every pair."""
    a, b = [0.900, 0.901, 0.902, 0.901, 0.930], [0.903, 0.904, 0.905, 0.904]
    study = results({name: {s: right(x) for s, x in enumerate(own)} for name, own in {"A": a, "B": b}.items()})
    study = dataclasses.replace(study, study=dataclasses.replace(study.study, test="paired"))
    assert [result.variant for result in study.ranking] == ["B", "A"]
    assert [len(result.runs) for result in study.ranking] == [4, 4]
    (pair,) = study.verdict.pairs
    assert pair.lead == pytest.approx(0.003)
    assert pair.interval.low < 0.003 < pair.interval.high


def test_a_failure_that_no_look_uses_is_none() -> None:
    """A is settled as better at the first look of three; a run of its seventh seed was cut short in an earlier plan."""
    correct = {"A": {s: right(0.9, seed=s) for s in range(3)}, "B": {s: right(0.7, seed=s) for s in range(3)}}
    study = results(correct)
    grown = dataclasses.replace(study.study, seeds=list(range(8)), looks=(3, 4, 8))
    late = dataclasses.replace(study.finished[0].run, seed=7)
    study = dataclasses.replace(study, study=grown, failures=[Outcome(late, "incomplete run")])
    assert study.verdict.watch is not None
    assert study.verdict.watch.stop == "decided"
    assert study.used().failures == []


def test_where_runs_are_not_validated_there_is_no_time_to_a_score() -> None:
    study = results({"A": {1: right(0.9)}, "B": {1: right(0.8)}})
    assert study.target is not None
    blind = [dataclasses.replace(each, history=each.history[["epoch"]]) for each in study.finished]
    study = dataclasses.replace(study, finished=blind)
    assert study.target is None
    assert not [column for column in study.table().columns if column.startswith("seconds_to")]


def test_a_variant_that_left_the_race_stays_behind_those_that_beat_it() -> None:
    """B is settled as worse at four seeds; the others' fifth seeds collapse, and its mean is then the highest."""
    accuracies = {"A": [0.9, 0.901, 0.902, 0.9, 0.6], "B": [0.85, 0.851, 0.852, 0.85], "C": [0.899, 0.9, 0.9, 0.9, 0.6]}
    study = results({name: {s: right(x, seed=s) for s, x in enumerate(own)} for name, own in accuracies.items()})
    grown = dataclasses.replace(study.study, seeds=[0, 1, 2, 3, 4, 5], looks=(4, 5, 6))
    study = dataclasses.replace(study, study=grown)
    assert study.verdict.watch is not None
    assert set(study.verdict.watch.settled) == {("A", "B"), ("C", "B")}
    assert study.ranking[-1].variant == "B"
    for pair in study.verdict.pairs:
        if "B" in (pair.better.name, pair.worse.name):
            assert pair.settled
            assert pair.worse.name == "B"
            assert pair.p > 0  # of the look that settled it


def test_curves_are_means_by_epoch_with_the_range_of_the_seeds() -> None:
    runs = [result("A", seed, right(0.9, 30), LABELS) for seed in (1, 2)]
    runs[1].history["train/loss"] += 0.2
    curve = results({"A": {1: right(0.9, 30)}}, finished=runs).ranking[0].curve("train/loss")
    assert curve.index.tolist() == [1, 2]
    assert curve["mean"].tolist() == pytest.approx([1.0, 0.6])  # (1 + .8)/2 and (.6 + .4)/2, plus half of .2
    assert curve["low"].tolist() == pytest.approx([0.9, 0.5])
    assert curve["high"].tolist() == pytest.approx([1.1, 0.7])
    assert results({"A": {1: right(0.9, 30)}}).ranking[0].curve("val/unknown").empty


def test_accuracy_by_class_averages_over_seeds() -> None:
    first, second = np.ones(30, dtype=bool), np.ones(30, dtype=bool)
    first[0] = first[3] = second[0] = False  # class 0 has ten images: two wrong, then one
    study = results({"A": {1: first, 2: second}})
    assert study.per_class["A"].tolist() == pytest.approx([0.85, 1, 1])
    assert study.per_class["images"].tolist() == [10, 10, 10]
    (*_, confusions) = sections._classes(study)
    assert confusions.rows[0].cells == ("cat as dog (3×)",)


def with_strata(study: StudyResults, **strata: np.ndarray) -> StudyResults:
    runs = [replace(run, predictions=replace(run.predictions, strata=strata)) for run in study.finished]
    return replace(study, finished=runs)


def test_accuracy_by_stratum_averages_over_seeds_with_an_interval() -> None:
    first, second = np.ones(30, dtype=bool), np.ones(30, dtype=bool)
    first[[0, 1]] = second[2] = False
    sizes = np.where(np.arange(30) < 10, "8", "16")
    study = with_strata(results({"A": {1: first, 2: second}, "B": {1: second, 2: second}}), size=sizes)
    tables = [part for part in sections._classes(study) if isinstance(part, Table)]
    by_size = next(table for table in tables if table.label == "Accuracy by size")
    assert by_size.columns == ["Size", "Test images", "B", "A"]
    assert [row.head for row in by_size.rows] == ["8", "16"]
    (few, _, cell), _ = (row.cells for row in by_size.rows)
    low, high = (100 * end for end in t_interval([0.8, 0.9], 1 / 10).within(0, 1)[1:])
    assert (few, cell) == ("10", f"85.0 [{low:.1f},{SPACE}{high:.1f}]")
    assert "Accuracy by size" not in str(sections._classes(results({"A": {1: first}})))


def test_the_report_says_what_temperatures_would_give() -> None:
    """The runs are 90 % sure, and at T p = 18^(1/T) / (18^(1/T) + 2). Folds have a temperature each."""
    study = results({"A": {1: np.arange(30) < 24, 2: np.arange(30) < 24}})
    assert len(sections._calibration(study, {"calibration": None})) == 1  # older runs have none
    warm = [replace(run, summary={"metrics": {"test/temperature": run.run.seed + 1.0}}) for run in study.finished]
    table = sections._calibration(replace(study, finished=warm), {"calibration": None})[1]
    after = np.mean([abs(0.8 - 18 ** (1 / t) / (18 ** (1 / t) + 2)) for t in (2, 3)])
    assert table.rows[0].cells == ("2.50", "10.0", f"{100 * after:.1f}")
    assert replace(warm[0], parts=warm).ece_calibrated == pytest.approx(after)


def test_a_class_without_test_images_has_no_accuracy() -> None:
    study = results({"A": {1: right(0.9, 30)}}, class_names=["cat", "dog", "eel", "fox"])
    assert np.isnan(study.per_class.loc["fox", "A"])


def test_the_table_has_a_row_for_every_run_failed_ones_too() -> None:
    failed = Outcome(Run("A", 2, {}, Path("runs/a")), "exit status 1")
    table = results({"A": {1: right(0.4)}, "B": {1: right(0.9), 2: right(0.9)}}, failures=[failed]).table()
    assert table[["variant", "seed", "status"]].to_numpy().tolist() == [
        ["A", 1, "finished"], ["A", 2, "exit status 1"], ["B", 1, "finished"], ["B", 2, "finished"],
    ]  # fmt: skip
    assert table["top1"].fillna(-1).tolist() == pytest.approx([0.4, -1, 0.9, 0.9])
    assert table["beats_knn"].fillna(False).tolist() == [False, False, True, True]
    assert table["epochs"].dtype == "Int64"


def test_top5_is_told_only_where_it_can_be_wrong() -> None:
    # Among five classes or fewer the right one is always among the first five.
    assert "top5" not in results({"A": {1: right(0.4, 30)}}).table()
    classes = ["cat", "dog", "eel", "fox", "gnu", "hen"]
    run = result("A", 1, right(0.4, 30), np.arange(30) % 3)
    six = Predictions(run.predictions.images, run.predictions.labels, np.eye(6, dtype=np.float32)[np.full(30, 3)])
    six_classes = [dataclasses.replace(run, predictions=six)]
    study = results({"A": {1: right(0.4, 30)}}, class_names=classes, finished=six_classes)
    assert study.table()["top5"].item() == 1


def test_time_to_an_accuracy_is_that_of_the_epoch_which_reached_it() -> None:
    # Both runs reach .7 in epoch 1 and .8 in epoch 2 of 2, in 60 s; every run reached 80 %.
    study = results({"A": {1: right(0.9, 30), 2: right(0.9, 30)}})
    assert study.target == 0.8
    assert study.ranking[0].seconds_to(0.7) == 30
    assert study.ranking[0].seconds_to(study.target) == 60
    assert study.ranking[0].seconds_to(0.81) is None

    only = [dataclasses.replace(each, history=each.history.iloc[3:4]) for each in study.finished]
    assert [each.seconds_to(0.7) for each in only] == [60, 60]  # validated after the second alone

    # Stopped early after those two of eight epochs; and in the first, whose images were smaller, three times as fast.
    stopped = [dataclasses.replace(each, run=longer(each.run, 8)) for each in study.finished]
    assert [each.seconds_to(0.7) for each in stopped] == [30, 30]
    grown = [
        dataclasses.replace(e, history=e.history.assign(images_per_second=e.history["epoch"].map({0: 30, 1: 10})))
        for e in stopped
    ]
    assert [each.seconds_to(0.7) for each in grown] == [15, 15]


def longer(run: Run, epochs: int) -> Run:
    return dataclasses.replace(run, config=merge(run.config, {"trainer": {"max_epochs": epochs}}))


def test_reliability_is_by_bins_of_confidence() -> None:
    # Always 90 % sure, in the 14th of 15 bins; right in 27 and 24 of 30.
    bins = results({"A": {1: right(0.9, 30), 2: right(0.8, 30)}}).ranking[0].reliability
    assert np.flatnonzero(bins.images).tolist() == [13]
    assert (bins.images[13], bins.confidence[13], bins.accuracy[13]) == pytest.approx((60, 0.9, 51 / 60), abs=1e-6)
    assert np.isnan(bins.accuracy[0])


def test_features_stand_beside_those_of_the_untrained_network() -> None:
    """A variant whose training made its features no better is marked, as one below raw pixels is."""
    study = results({"DINO": {1: right(0.7)}, "MAE": {1: right(0.6)}})
    before = {"DINO": 0.65, "MAE": 0.61}
    for run in study.finished:
        run.summary["metrics"] = {"test/top1_untrained": before[run.run.variant]}
    rows = {row.head: row for row in sections._ranked_rows(study)}
    assert [*rows] == ["DINO", "DINO, untrained", "MAE, untrained", "MAE", "k-NN on raw pixels", "majority class"]
    assert rows["DINO, untrained"].cells[0] == "65.0"
    assert "≤ untrained" in rows["MAE"].marks
    assert "≤ untrained" not in rows["DINO"].marks
    assert not_beyond_baselines(study)[-1] == "The training of MAE improved no features beyond chance."
    more = results({"DINO": {1: right(0.7), 2: right(0.71)}, "MAE": {1: right(0.6), 2: right(0.8)}})
    for run in more.finished:
        run.summary["metrics"] = {"test/top1_untrained": 0.59}
    assert not_beyond_baselines(more)[-1] == "The training of MAE improved no features beyond chance."
    for run in study.finished:  # the same network
        run.summary["metrics"] = {"test/top1_untrained": 0.65}
    assert "DINO, MAE, untrained" in {row.head for row in sections._ranked_rows(study)}
    for run in study.finished:  # ranked by something else, an accuracy says nothing of it
        object.__setattr__(run.run, "metric", Metric("val/knn"))
    assert [run.untrained for run in study.finished] == [None, None]
