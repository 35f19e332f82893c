"""Studies along an axis: what is trained, and what the report says of curves that were planted."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from fake_study import FAKE_PROGRAM, plain, variant
from referee.report.along import line_parts, number
from referee.report.document import Figure
from referee.report.drawing import draw  # before a test leaves the charts empty

from referee import judge
from vitlab.config import merge, nest
from vitlab.evaluation.predictions import read_predictions
from vitlab.studies.compare import ResolvedStudy, RunsFailed, compare, in_turn
from vitlab.studies.file.registration import Outcome
from vitlab.studies.file.study import read_study
from vitlab.studies.report.page import line_of

pytestmark = pytest.mark.usefixtures("in_process", "no_figures")
Write = Callable[..., Path]
LR = "model.init_args.lr"
# 0.05 + 2 n^−0.45 and 7.85 n^−0.65 cross at 250 images.
CROSSING = {
    "variants": {
        "Swin": variant(0.5, law=[0.05, 2.0, 0.45]),
        "ViT": variant(0.5, law=[0.0, 7.85, 0.65]),
        "twin": variant(0.5, law=[0.05, 2.001, 0.45]),
    },
    "seeds": [1, 2, 3, 4, 5],
    "along": {"train_images": [1000, 60, 120, 500]},
}


def test_a_study_along_an_axis_is_the_same_study_at_each_place(write_study: Write, tmp_path: Path) -> None:
    study = read_study(write_study(**CROSSING))
    points = study.points
    assert [point.place for point in points] == [f"{n} training images" for n in ("60", "120", "500", "1,000")]
    plans = [ResolvedStudy.of(point, tmp_path) for point in points]
    runs = in_turn(plans)
    assert [run.seed for run in runs] == [seed for seed in study.seeds for _ in range(12)]
    assert str(runs[0]) == "Swin, 60 training images, seed 1"
    assert runs[0].directory == tmp_path / "small-study/swin-60-training-images/seed-1"
    assert {run.config["data"]["init_args"]["train_images"] for run in runs} == {60, 120, 500, 1000}
    assert plans[0].folder == tmp_path / "small-study/60-training-images"


def test_a_study_along_an_axis_has_no_single_report_for_a_dashboard(write_study: Write, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a dashboard shows one report, and `along` gives one at each place"):
        compare(write_study(**CROSSING), tmp_path / "runs", program=FAKE_PROGRAM, dashboard=lambda *_: "nowhere")


def test_places_are_named_by_round_numbers() -> None:
    assert [number(x).replace("\u00a0", " ") for x in (1078, 5e6, 4e12, 1e15)] == ["1,078", "5 M", "4 T", "1 P"]


def test_a_place_of_which_nothing_is_left_has_its_row(write_study: Write, tmp_path: Path) -> None:
    failing = {"A": variant(0.9, fail_beyond=100), "B": variant(0.8, fail_beyond=100)}
    study = write_study(variants=failing, seeds=[1, 2], along={"train_images": [60, 120]})
    with pytest.raises(RunsFailed) as failed:
        compare(study, tmp_path / "runs", program=FAKE_PROGRAM)
    text = failed.value.report.with_suffix(".md").read_text()
    assert "Some places have no finished run" in text


@pytest.mark.slow
def test_the_report_names_the_crossing_and_which_variant_is_best_where(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = compare(write_study(**CROSSING), tmp_path / "runs", program=FAKE_PROGRAM)
    assert report == tmp_path / "runs/small-study/report.html"
    text = report.with_suffix(".md").read_text()
    assert (
        "At 60 and 120 training images, no variant is better than Swin or twin; at 500 and 1,000 training images,"
        in text
    )
    assert "at 500 and 1,000 training images, ViT is better than all others, ahead of the next by" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| Swin and ViT |")]
    assert row.endswith("| 120 and 500 | Swin is better at 60 and 120; ViT is better at 500 and 1,000 |")
    assert "| Swin and twin | – | nowhere distinguished |" in text
    assert (tmp_path / "runs/small-study/500-training-images/report.html").is_file()
    assert "At 60 and 120 training images" in capsys.readouterr().out

    study = read_study(tmp_path / "study.yaml")
    plans = [ResolvedStudy.of(point, tmp_path / "runs") for point in study.points]
    assert study.along is not None
    line = line_of(study.along, [planned.results([Outcome(run, None) for run in planned.runs]) for planned in plans])
    (figure, *_) = line_parts(line, "curves", tmp_path)
    assert isinstance(figure, Figure)
    drawing = draw(figure.drawing.chart, None, tmp_path)
    assert "k-NN on pixels" in drawing.wide

    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/*/seed-*/summary.json")}
    assert len(before) == 60
    compare(write_study(**CROSSING), tmp_path / "runs", program=FAKE_PROGRAM)  # nothing is left to do
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.glob("runs/*/*/seed-*/summary.json")}


@pytest.mark.slow(edge=True)
def test_a_place_where_variants_differ_otherwise_too_is_not_comparable(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"data": {"init_args": {"batch_size": 16}}}
    better = merge(variant(0.9, law=[0.0, 2.0, 0.6]), other)  # not declared by `may_differ`
    path = write_study(
        variants={"A": variant(0.9, law=[0.0, 2.0, 0.3]), "B": better}, along={"train_images": [100, 200]}
    )
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    assert "From 100 to 200 training images, the variants are not comparable." in capsys.readouterr().out
    text = report.with_suffix(".md").read_text()
    assert "batch size differs too, and the study does not declare it" in plain(text)
    assert "is better at" not in text


@pytest.mark.slow
def test_a_variant_without_a_finished_run_at_a_place_is_named_there(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = {"A": variant(0.95), "B": variant(0.9), "C": variant(0.8, fail_lr=0.1)}
    path = write_study(variants=variants, along={"model.init_args.lr": [0.1, 0.2]})
    with pytest.raises(RunsFailed):
        compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    said = plain(capsys.readouterr().out)
    assert "At lr 0.1, A is better than all others, ahead of the next by" in said
    assert "points (C finished no run there); at lr 0.2, A is better than all others" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"along": {"train_images": [50]}}, "along: train_images: .50.. List should have at least 2 items"),
        ({"along": {"train_images": [0, 50]}}, "Expected numbers above 0"),
        ({"along": {"images": [50, 100]}}, "an axis of budgets, and budget: 4 epochs. Remove one of the two"),
        ({"along": {"train_images": [50, 100]}, "seeds": {"from": 4, "to": 8}}, "have the same seeds. Give `seeds` as"),
        ({"along": {"train_images": [50, 100]}, "test": "exact", "seeds": [1, 2, 3, 4, 5]}, "exact has no crossings"),
        ({"along": {"train_image": [50, 100]}}, "unknown axis of `along` `train_image`. Did you mean `train_images`"),
    ],
)
def test_an_axis_that_cannot_be_is_refused(write_study: Write, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(write_study(**changes), tmp_path / "runs", program=FAKE_PROGRAM)
    assert not list(tmp_path.glob("runs/**/seed-*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"along": {"trainer.max_epochs": [2, 6]}, "budget": {"epochs": 4}},
        {"along": {LR: [0.1, 0.3]}, "variants": {"A": merge(variant(0.8), nest(LR, 0.1)), "B": variant(0.9)}},
        {"along": {LR: [0.1, 0.3]}, "tune": {"space": {LR: [0.2, 0.4]}, "within": "study"}},
        {"along": {LR: [0.1, 0.3]}, "tune": {"space": {LR: [0.1, 0.3]}, "within": "study"}},
    ],
)
def test_a_place_whose_setting_something_else_sets_is_refused(
    write_study: Write, tmp_path: Path, changes: dict
) -> None:
    """Its report would name a setting that the runs do not have."""
    ((key, _),) = changes["along"].items()
    path = write_study(**{"seeds": [1, 2, 3], "variants": {"A": variant(0.8), "B": variant(0.9)}, **changes})
    with pytest.raises(ValueError, match=rf"along: .*[AB] has {key}: .*set by the variant, the budget or tuning"):
        compare(path, tmp_path / "runs", program=FAKE_PROGRAM)


DATA_SETS = {"easy": {}, "hard": nest("data.init_args.harder", 0.2), "harder": nest("data.init_args.harder", 0.3)}


def test_data_sets_have_one_verdict_as_referee_gives_it_for_their_table(write_study: Write, tmp_path: Path) -> None:
    variants = {"A": variant(0.93), "B": variant(0.90), "C": variant(0.89)}
    path = write_study(variants=variants, seeds=[1, 2, 3, 4], data_sets=DATA_SETS)
    report = compare(path, tmp_path / "runs", program=FAKE_PROGRAM)
    rows = [
        pd.DataFrame(
            {"dataset": name, "variant": of, "seed": seed, "item": read.images, "label": read.labels}
            | {"prediction": read.logits.argmax(axis=1)}
        )
        for name in DATA_SETS
        for of in variants
        for seed in (1, 2, 3, 4)
        for read in [read_predictions(report.parent / f"{of}-{name}".lower() / f"seed-{seed}" / "predictions.parquet")]
    ]
    joint = judge(pd.concat(rows))
    text = report.with_suffix(".md").read_text()
    assert text.startswith(f"# {joint.sentence}\n")
    assert "Over these 3 data sets A is better than B" in joint.sentence
    assert [f"[{name}]({name}/report.html)" in text for name in DATA_SETS] == [True] * 3


@pytest.mark.parametrize("other", [{"along": {"epochs": [1, 2]}}, {"claim": {"order": "A > B", "says": "?"}}])
def test_data_sets_are_many_studies(other: dict[str, object], write_study: Write) -> None:
    with pytest.raises(ValueError, match=r"such a study is many studies, and \w+ needs a single one. Remove one"):
        read_study(write_study(variants={"A": variant(0.9), "B": variant(0.8)}, data_sets=DATA_SETS, **other))
