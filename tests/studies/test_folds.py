"""A study with folds: a seed is one outcome of every image, or no result, in the table, the plan and the report."""

from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import fake_vitlab
import numpy as np
import pandas as pd
import pytest
import yaml
from fake_study import FAKE_PROGRAM, Digits, plain, result, results, variant
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import referee
from vitlab.config import merge
from vitlab.evaluation.predictions import Predictions, data_uri
from vitlab.studies.compare import RunsFailed, begun_study, compare, results_of
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.runs import plan
from vitlab.studies.file.study import read_study
from vitlab.studies.planning import plan_study
from vitlab.studies.report.page import write_report
from vitlab.studies.results import context_of, of_folds

pytestmark = pytest.mark.usefixtures("in_process", "no_figures")
Write = Callable[..., Path]
FROM = {"model": {"init_args": {"init_from": "before.yaml"}}}
TWO = {"A": variant(0.9), "B": variant(0.96)}
NOT_FINITE = "ValueError: the loss is not finite at epoch 3"


@pytest.fixture
def folded(write_study: Write) -> Write:
    return lambda **changes: write_study(**{"variants": TWO, "folds": 3, **changes})


def test_a_seed_has_a_run_for_each_fold_of_one_partition(folded: Write, tmp_path: Path) -> None:
    study = read_study(folded())
    runs = plan(study, tmp_path)
    assert len(runs) == 2 * 3 * 3
    assert [str(run) for run in runs[:3]] == ["A, seed 1, fold 1", "A, seed 1, fold 2", "A, seed 1, fold 3"]
    assert len({run.directory for run in runs}) == len(runs)
    for run in runs:
        data = run.config["data"]["init_args"]
        assert data["split_seed"] == run.seed == run.config["seed_everything"]
        assert data["folds"] == {"count": 3, "test": run.fold, "groups": None}
        assert Path(run.config["run"]["root"], run.config["run"]["name"], f"seed-{run.seed}") == run.directory


@pytest.mark.parametrize("has_test", [True, False])
def test_folds_may_be_for_data_without_test_images(
    has_test: bool, folded: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlab.studies.compare.images_of", lambda run: SimpleNamespace(has_test=has_test))
    variants = {"A": variant(0.9), "B": variant(0.8, size=2.0)}  # a key of the second alone may differ
    size = "model.init_args.backbone.init_args.size"
    keys = ["model.init_args.backbone", size]
    study = begun_study(folded(folds={"without_test": 4}, variants=variants, may_differ=keys), tmp_path)
    assert list(study.parts) == ([None] if has_test else [1, 2, 3, 4])
    for wrong in ({"without_test": 1}, {"without": 5}, "5"):
        with pytest.raises(ValueError, match="Expected a number of parts"):
            read_study(folded(folds=wrong))


def test_every_image_has_one_outcome_a_seed(folded: Write, digits: Digits, tmp_path: Path) -> None:
    path = folded(seeds=[1, 2])
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, images = results_of(path, tmp_path / "runs")
    names, labels = digits.image_names("test"), digits.labels("test")
    assert results.images == images.image_names("test") == sorted(names)
    assert np.array_equal(results.labels, labels)
    assert np.array_equal(images.labels("test"), labels)
    shown = images.raw_images("test", [5, 300])
    assert all(map(np.array_equal, shown, digits.raw_images("test", [5, 300])))
    assert results.outcomes.variants == ["A", "B"]
    assert [row.outcomes.shape for row in results.outcomes.runs] == [(597,)] * 4

    folder = report.parent
    folds = pd.read_csv(folder / "folds.csv", index_col="image")
    assert list(folds.columns) == ["1", "2"]
    assert sorted(folds.index) == sorted(names)
    for variant_, seed, fold in (("a", 1, 2), ("b", 2, 1)):
        tested = pd.read_parquet(folder / variant_ / f"fold-{fold}" / f"seed-{seed}" / "predictions.parquet")
        assert set(tested["image"]) == set(folds.index[folds[str(seed)] == fold])
        right = tested["logits"].map(np.argmax) == tested["label"]
        (result,) = (r for r in results.finished if (r.run.variant.lower(), r.run.seed) == (variant_, seed))
        known = dict(zip(result.predictions.images, result.correct, strict=True))
        assert [known[name] for name in tested["image"]] == right.tolist()

    rows = pd.read_csv(folder / "results.csv")
    assert len(rows) == 4
    assert rows["train_seconds"].tolist() == [3 * (20 + 3 * seed) for seed in (1, 2)] * 2
    text = plain(report.with_suffix(".md").read_text())
    assert "the partition of all images into 3 folds" in text
    assert "trainings on 66.7 % of these images" in text
    assert "not in this comparison" not in text  # no fold is left out
    assert f"fit --config {folder / 'a' / 'fold-1' / 'config-seed-1.yaml'}" in text
    one = f"--data.folds null --data.val_fraction 0.05 --run.root {folder.parent} --run.name small-study-model"
    assert f"fit --config {folder / 'b' / 'fold-1' / 'config-seed-1.yaml'} {one}" in text
    assert f"predict --config {folder.parent / 'small-study-model' / 'seed-1'} --images new" in text
    files = f"{folder}/{{variant}}/fold-{{fold}}/seed-{{seed}}/predictions.parquet"
    own, read = results.verdict.pairs[0], referee.judge(files).pairs[0]
    assert (read.lead, read.p, *read.interval) == (own.lead, own.p, *own.interval)  # to the digit


def test_a_seed_without_one_of_its_folds_is_no_result(folded: Write, tmp_path: Path) -> None:
    path = folded(variants={"A": variant(0.9, fail_fold=[2, 3]), "B": variant(0.96)})
    with pytest.raises(RunsFailed, match="A, seed 2, fold 3"):
        compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    results, _ = results_of(path, tmp_path / "runs")
    assert [(str(run), why) for run, why in results.failures] == [("A, seed 2, fold 3", f"exit status 1: {NOT_FINITE}")]
    assert len(results.finished) == 5
    assert (tmp_path / "runs/small-study/a/fold-1/seed-2/summary.json").is_file()
    report = plain((tmp_path / "runs/small-study/report.md").read_text())
    assert f"A, seed 2, fold 3: exit status 1: {NOT_FINITE}" in report


@pytest.mark.slow(edge=True)
def test_a_watched_study_looks_at_whole_seeds(folded: Write, tmp_path: Path) -> None:
    path, root = folded(seeds={"from": 3, "to": 6}), tmp_path / "runs"
    runs = plan(read_study(path), root)
    for run in [run for run in runs if run.seed <= 3][:-1]:  # all of a look but one fold
        fake_vitlab.fit(run.config, overwrite=False)
    before, _ = results_of(path, root)
    assert len(before.finished) == 5
    assert before.failures == []
    assert before.verdict.watch.looks == []
    compare(path, root, program=FAKE_PROGRAM)
    after, _ = results_of(path, root)
    assert len(after.verdict.watch.looks) >= 1
    assert all(len(result.parts) == 3 for result in after.finished)


def test_the_planner_counts_all_images_and_the_runs_of_all_folds(
    folded: Write, write_study: Write, tmp_path: Path
) -> None:
    guess = plan_study(folded(), tmp_path / "runs")
    assert guess.pilot == plan_study(write_study(variants=TWO), tmp_path / "other").pilot  # 597 images too
    compare(folded(), tmp_path / "runs", program=FAKE_PROGRAM)
    known = plan_study(folded(), tmp_path / "runs")
    assert (known.runs(4), known.finished) == (12, 18)
    assert known.seconds is not None
    assert [each.tolist() for each in known.seconds] == [[23.0, 26.0, 29.0]] * 2  # of a run


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folds": 1}, "folds: 1. Expected a number of parts, like 5, {without_test: 5}, or null"),
        ({"folds": {"count": 5}}, "Expected a number of parts"),
        (
            {"tune": {"space": {"model.init_args.lr": [0.1, 0.2]}, "within": "study"}},
            "folds: tuning chooses by images that other parts test",
        ),
        (
            {"variants": {**TWO, "B": merge(TWO["B"], FROM)}},
            "takes weights from before.yaml, perhaps trained on test images of some folds",
        ),
    ],
)
def test_what_would_test_on_images_of_the_training_is_refused(
    changes: dict, message: str, folded: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {"data": {"class_path": "fake.Digits", "init_args": {"root": "another"}}}
    Path("before.yaml").write_text(yaml.safe_dump(before))
    with pytest.raises(ValueError, match=message):
        plan(read_study(folded(**changes)), tmp_path)
    assert yaml.safe_load((tmp_path / "study.yaml").read_text())["name"] == "Small study"


def test_folds_may_start_from_an_experiment_on_another_data_set(folded: Write, tmp_path: Path) -> None:
    start = {"model": {"init_args": {"init_from": "experiments/mae_vit.yaml"}}}
    runs = plan(read_study(folded(variants={**TWO, "B": merge(TWO["B"], start)})), tmp_path)
    assert {run.config["model"]["init_args"].get("init_from") for run in runs} == {None, "experiments/mae_vit.yaml"}


def test_an_experiment_on_the_same_images_follows_the_folds(folded: Write, tmp_path: Path) -> None:
    """It trains on what its run trains on, so that no part is tested that it has seen."""
    before = {"data": yaml.safe_load((folded().parent / "base.yaml").read_text())["data"]}
    (tmp_path / "before.yaml").write_text(yaml.safe_dump(before))
    start = {"model": {"init_args": {"init_from": f"{tmp_path}/before.yaml"}}}
    runs = plan(read_study(folded(variants={**TWO, "B": merge(TWO["B"], start)})), tmp_path / "runs")
    asked = {
        (run.seed, run.fold): run.config["model"]["init_args"].get("init_from") for run in runs if run.variant == "B"
    }
    assert asked[1, 2].split()[1:] == ["data.split_seed=1", "data.folds.count=3", "data.folds.test=2"]
    assert len(set(asked.values())) == len(asked)
    (compute,) = context_of(read_study(folded()), runs, [], tmp_path, TOP1, []).compute
    assert (compute.source, compute.variants) == (asked[1, 1].split()[0], ["B"])  # once, for all parts and seeds


def test_planted_wrong_labels_lead_the_list_of_suspicious_ones(digits: Digits, tmp_path: Path) -> None:
    """A linear model's out-of-fold probabilities of 1,797 digits, of which every twentieth has another label."""
    rng, images = np.random.default_rng(0), copy(digits)
    wrong = np.sort(rng.choice(len(digits.target), 90, replace=False))
    images.target = digits.target.copy()
    images.target[wrong] = (images.target[wrong] + rng.integers(1, 10, 90)) % 10
    images.splits = {"test": np.arange(len(images.target))}
    names, pixels = images.image_names("test"), images.pixels.reshape(len(images.target), -1) / 255
    finished = []
    for seed in (1, 2):
        folds = StratifiedKFold(3, shuffle=True, random_state=seed)
        linear = LogisticRegression(C=0.1, max_iter=200)
        p = cross_val_predict(linear, pixels, images.target, cv=folds, method="predict_proba")
        parts = []
        for fold, (_, rows) in enumerate(folds.split(pixels, images.target), start=1):
            one = result("Linear", seed, np.ones(3, dtype=bool), np.arange(3))
            tested = Predictions([names[i] for i in rows], images.target[rows], np.log(p[rows]))
            parts.append(replace(one, run=replace(one.run, fold=fold), predictions=tested))
        finished.append(of_folds(parts))
    described = results({"Linear": {1: np.ones(3, dtype=bool), 2: np.ones(3, dtype=bool)}})
    (tmp_path / "study.yaml").touch()
    study = replace(described.study, folds=3, path=tmp_path / "study.yaml")
    write_report(replace(described, study=study, finished=finished, class_names=images.class_names), images, tmp_path)

    listed = pd.read_csv(tmp_path / "labels.csv", dtype={"label": str, "likeliest_other": str}).set_index("image")
    assert len(listed) == len(names)
    assert listed["margin"].is_monotonic_increasing
    found = listed.loc[[names[i] for i in wrong]]
    first = set(listed.index[: len(listed) // 10])
    assert np.mean([name in first for name in found.index]) > 0.9
    assert found["label"].tolist() == [str(images.target[i]) for i in wrong]
    assert np.mean(found["likeliest_other"] == [str(digits.target[i]) for i in wrong]) > 0.8
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('id="labels"') :]
    shown = [int(name.rpartition("/")[2]) for name in listed.index[:60]]
    for index, picture in zip(shown, images.raw_images("test", shown), strict=True):
        assert f'src="{data_uri(picture)}" alt="{names[index]}"' in section
