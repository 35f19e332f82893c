"""Test images that fail together: the rule is over their groups, and a pattern that tells none is refused."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import fake_vitlab
import numpy as np
import pytest
from fake_study import plain, results, variant

from vitlab.studies.compare import ResolvedStudy, compare
from vitlab.studies.file.fairness import groups_of, split_groups
from vitlab.studies.file.runs import plan
from vitlab.studies.file.study import read_study
from vitlab.studies.planning import plan_study
from vitlab.studies.report.verdict import design_effect, not_beyond_baselines

Write = Callable[..., Path]
TENS = r"(\d*)\d$"  # the images of a ten


def test_the_interval_is_over_groups_of_images() -> None:
    """Every group of ten is right or wrong as a whole: so many independent images are there as groups."""
    rng = np.random.default_rng(0)
    right = {name: rng.random((5, 60)) < rate for name, rate in (("A", 0.8), ("B", 0.6))}
    by_group = results({name: dict(enumerate(each)) for name, each in right.items()})
    repeated = results({name: dict(enumerate(np.repeat(each, 10, axis=1))) for name, each in right.items()})
    told = dataclasses.replace(repeated, study=dataclasses.replace(repeated.study, groups=TENS))
    widths = [
        (pair.interval.high - pair.interval.low) for study in (by_group, told, repeated) for pair in study.verdict.pairs
    ]
    assert told.outcomes.groups is not None
    assert told.outcomes.groups.max() + 1 == 60
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert widths[2] < 0.9 * widths[0]


def test_a_mean_over_groups_varies_as_over_so_many_images() -> None:
    """Ten images of a group are right or wrong together, so the variance of their mean is ten times as large."""
    rate = np.random.default_rng(0).random(60)
    assert design_effect(np.repeat(rate, 10), np.repeat(np.arange(60), 10)) == pytest.approx(10)
    assert design_effect(rate, np.arange(60)) == pytest.approx(1)
    assert design_effect(rate, None) == design_effect(np.ones(60), np.arange(60)) == 1


def test_no_baseline_is_beaten_by_images_that_are_counted_ten_times() -> None:
    right = np.arange(40) < 28  # 70 %; the line is k-NN's 60
    study = results({name: {seed: np.repeat(right, 10) for seed in range(4)} for name in "AB"})
    assert study.baselines is not None
    study = dataclasses.replace(study, baselines=dataclasses.replace(study.baselines, knn=0.6, test_images=400))
    told = dataclasses.replace(study, study=dataclasses.replace(study.study, groups=TENS))
    assert not_beyond_baselines(study) == []
    assert len(not_beyond_baselines(told)) == 1


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("val/", "groups: 'val/'. Expected a regular expression of image names with the group in parentheses"),
        ("(", "groups: '('. Expected a regular expression of image names"),
        (7, "groups: 7. It should be a valid string"),
        ("(train)/", r"groups: '(train)/' does not match the image test/00000"),
        ("(test)/", "groups: '(test)/' puts all images into one group, test; it takes two or more"),
    ],
)
def test_what_tells_no_groups_is_refused_before_the_first_run(
    groups: object, message: str, write_study: Write, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ResolvedStudy.of(read_study(write_study(groups=groups)), tmp_path)


def test_groups_may_be_a_column_of_a_table(write_study: Write, tmp_path: Path) -> None:
    resolved = ResolvedStudy.of(read_study(write_study()), tmp_path)
    names = resolved.images.image_names("test")
    table, rows = tmp_path / "photos.csv", [f"{name},{number // 10}\n" for number, name in enumerate(names)]
    table.write_text("image,animal\n" + "".join(rows))
    found = groups_of(read_study(write_study(groups=f"{table}:animal")), names)
    assert found is not None
    assert found.tolist() == [str(number // 10) for number in range(len(names))]
    with pytest.raises(ValueError, match="has no column patient; it has image, animal"):
        groups_of(read_study(write_study(groups=f"{table}:patient")), names)


def test_a_study_takes_the_groups_of_its_data(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = ResolvedStudy.of(read_study(write_study()), tmp_path)
    assert resolved.grouped.groups is None
    monkeypatch.setattr(resolved.images, "grouping", TENS)  # of all tests' images
    assert resolved.grouped.groups == TENS
    resolved.study = dataclasses.replace(resolved.study, groups="(test)/")
    assert resolved.grouped.groups == "(test)/"


def test_a_group_split_in_two_is_named(write_study: Write, tmp_path: Path) -> None:
    resolved = ResolvedStudy.of(read_study(write_study()), tmp_path)
    names = {split: resolved.images.image_names(split) for split in ("train", "val", "test")}
    (tmp_path / "photos.csv").write_text(
        "image,animal\n"
        + "".join(f"{name},t{number // 10}\n" for number, name in enumerate(names["test"]))
        + f"{names['train'][0]},t3\n{names['val'][0]},t7\n{names['val'][1]},v\n"  # others have no row
    )
    study = read_study(write_study(groups=f"{tmp_path}/photos.csv:animal"))
    (said,) = ResolvedStudy.of(study, tmp_path).leaks
    expected = "20 test images of 2 groups that are also trained or validated on, which inflates accuracy: t3, t7."
    assert plain(said).startswith(expected)
    assert ResolvedStudy.of(read_study(write_study(groups=TENS)), tmp_path).leaks  # each ten is in every split
    assert split_groups(dataclasses.replace(study, folds=5), resolved.images) == ""
    assert split_groups(dataclasses.replace(study, groups=None), resolved.images) == ""


def test_the_planner_knows_the_groups(write_study: Write, tmp_path: Path) -> None:
    """Its variance over images is that of the groups."""
    variants = {"A": variant(0.94), "B": variant(0.95)}
    for each in plan(read_study(write_study(variants=variants)), tmp_path / "runs"):
        fake_vitlab.fit(each.config, overwrite=False)
    alone, told = (
        plan_study(write_study(variants=variants, groups=groups), tmp_path / "runs").pilot.point.images
        for groups in (None, r"(\d*)\d\d$")
    )
    assert told != alone


@pytest.mark.parametrize("folds", [None, 3])
def test_the_report_says_that_intervals_are_over_groups_and_whether_splits_keep_them_whole(
    folds: int | None, write_study: Write, tmp_path: Path, in_process: None, no_figures: None
) -> None:
    study = write_study(variants={"A": variant(0.94), "B": variant(0.95)}, groups=TENS, folds=folds)
    report = plain(compare(study, tmp_path / "runs").with_suffix(".md").read_text())
    assert "95 % intervals over seeds and 60 groups of test images" in report or folds
    assert ("are on one side of every split" in report) == (folds is not None)
    assert ("that are also trained or validated on" in report) == (folds is None)
