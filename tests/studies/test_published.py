"""A variant's score beside a published figure: the interval's oracle is a simulation, the words follow from it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_study import measured, result, results, right, variant
from referee.along import interval_of
from referee.formats import SPACE
from referee.report.document import Table

from vitlab.studies.file.metric import Metric
from vitlab.studies.file.study import read_study
from vitlab.studies.report.published import compared, published_parts
from vitlab.studies.report.verdict_file import as_record
from vitlab.studies.results.table import StudyResults

Write = Callable[..., Path]
FIGURE = {"what": "test top-1", "source": "a paper, table 2"}


def beside(value: float, margin: float | None = None, seeds: int = 4, images: int = 4000) -> StudyResults:
    """Return a study whose first variant has about 80 % on these images, beside a published value."""
    found = results({name: {s: right(0.8 - 0.1 * i, images) for s in range(seeds)} for i, name in enumerate("AB")})
    study = dataclasses.replace(found.study, published={"A": {"value": value, **FIGURE}}, margin=margin)
    return dataclasses.replace(found, study=study)


@pytest.mark.parametrize(
    ("value", "margin", "word"),
    [
        (70.0, None, "above"),
        (90.0, None, "below"),
        (80.3, None, "not settled"),
        (80.3, 5.0, "equal within 5 points"),
        (80.3, 0.5, "not settled"),
    ],
)
def test_the_word_follows_from_the_interval(value: float, margin: float | None, word: str) -> None:
    (found,) = compared(beside(value, margin))
    assert (found.variant, found.word.replace(SPACE, " ")) == ("A", word)
    assert found.score.low < 80 < found.score.high


def test_of_a_loss_the_published_figure_and_the_margin_are_no_logarithms() -> None:
    study, metric = beside(2.0, 1.1), Metric("loss", "min", one_class=False, is_log=True)
    losses = {"A": [1.99, 2.0, 2.01, 2.0], "B": [3.0, 3.1, 3.2, 3.0]}
    (found,) = compared(measured(study, metric, losses))
    assert found.score.mean == pytest.approx(2.0, rel=1e-4)
    assert 1.95 < found.score.low < 2.0 < found.score.high < 2.05
    assert found.word == "equal within a factor of 1.1"


def test_images_of_folds_count_for_less() -> None:
    (alone,), study = compared(beside(80.3)), beside(80.3)
    (folds,) = compared(dataclasses.replace(study, study=dataclasses.replace(study.study, folds=2)))
    assert folds.score.high - folds.score.low > 1.2 * (alone.score.high - alone.score.low)


def test_one_seed_tells_nothing() -> None:
    study = beside(80.0, seeds=1)
    assert [each.word for each in compared(study)] == ["one seed tells nothing"]
    assert as_record(study)["published"][0]["score"]["low"] is None


def test_the_report_shows_it_with_its_source() -> None:
    (table, _) = published_parts(beside(90.0))
    assert isinstance(table, Table)
    ((head, cells),) = [(row.head, list(row.cells)) for row in table.rows]
    assert head == "A"
    assert cells[1:] == ["90", "below", "test top-1", "a paper, table 2"]
    assert published_parts(results({"A": {1: right(0.9)}, "B": {1: right(0.8)}})) == []


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Seeds that shift all images and images of unequal difficulty, drawn anew each time; 95 % of 400 is 380 ± 9."""
    rng, inside, truth = np.random.default_rng(0), 0, 0.7
    labels = np.zeros(300, dtype=int)
    for _ in range(400):
        difficulty = rng.normal(0, 0.2, 300)
        runs = []
        for seed in range(5):
            p = np.clip(truth + difficulty + rng.normal(0, 0.02), 0, 1)
            runs.append(result("A", seed, rng.random(300) < p, labels))
        found = results({"A": {seed: right(0.7, 300) for seed in range(5)}}, finished=runs)
        interval = interval_of(found.ranking[0].judged)
        inside += interval.low <= 0.6942 <= interval.high  # 0.7, which clipping moves a little
    assert 365 <= inside <= 395


@pytest.mark.parametrize("value", [81.4, {"value": "high", **FIGURE}, {"value": 81.4, "what": "top-1"}])
def test_a_figure_without_its_source_is_refused(write_study: Write, value: Any) -> None:
    with pytest.raises(ValueError, match=r"A: published: .*the source, like"):
        read_study(write_study(variants={"A": {**variant(0.9), "published": value}, "B": variant(0.95)}))
    good = {"value": 81.4, **FIGURE}
    study = read_study(write_study(variants={"A": {**variant(0.9), "published": good}, "B": variant(0.95)}))
    assert study.published == {"A": good}
    assert "published" not in study.variants["A"]
