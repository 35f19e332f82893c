"""What the section on differences says of a study, and that it says it only where it is so."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from fake_study import results, right
from referee.formats import SPACE
from referee.report import drawing
from referee.report.differences import conclusion_on, differences_section, limits
from referee.report.document import Part, Table
from referee.report.drawing import Drawing

from vitlab.studies.file.registration import Outcome
from vitlab.studies.file.runs import Run
from vitlab.studies.report import figures
from vitlab.studies.results import StudyResults

FIVE = [0.95, 0.952, 0.948, 0.951, 0.949]


def made(study: dict[str, Any] | None = None, failures: list[Outcome] | None = None, **by_seed: list[float]) -> Any:
    """Return results with these accuracies by variant; `study` changes the study's file."""
    outcomes = {
        name: {seed: right(accuracy, seed=7 * seed + len(name)) for seed, accuracy in enumerate(accuracies, 1)}
        for name, accuracies in by_seed.items()
    }
    made = results(outcomes, failures=failures or [])
    return dataclasses.replace(made, study=dataclasses.replace(made.study, **(study or {})))


def parts(study: StudyResults) -> list[Part]:
    chart = next(chart for chart in figures.charts_for(study.metric) if chart.name == "differences")
    return differences_section(study.verdict, Drawing(chart, "", ""))


def notes(study: StudyResults) -> str:
    return " ".join(p.text for p in parts(study) if getattr(p, "kind", "") == "note").replace(SPACE, " ")


def pairs(study: StudyResults) -> Table:
    return next(part for part in parts(study) if isinstance(part, Table))


def minus(accuracies: list[float], points: float) -> list[float]:
    return [accuracy - points / 100 for accuracy in accuracies]


def test_every_pair_has_its_conclusion() -> None:
    study = made(Swin=FIVE, ViT=minus(FIVE, 5), Other=[0.95, 0.949, 0.953])
    said = {
        (pair.better.name, pair.worse.name): conclusion_on(pair, study.verdict).replace(SPACE, " ")
        for pair in study.verdict.pairs
    }
    assert said["Swin", "ViT"] == "better (5 seeds each)"
    assert sorted(said.values()) == ["better (3 and 5 seeds)", "better (5 seeds each)", "undecided (3 and 5 seeds)"]
    assert "p, adjusted for 3 pairs" in "".join(pairs(study).columns).replace(SPACE, " ").replace("\n", " ")


def test_a_margin_shows_in_conclusions_and_chart() -> None:
    study = made({"margin": 1.5}, Swin=FIVE, ViT=FIVE[::-1])
    (pair,) = study.verdict.pairs
    assert conclusion_on(pair, study.verdict).replace(SPACE, " ") == "equal to within 1.5 points (5 seeds each)"
    assert "two one-sided tests exclude a difference of 1.5 points or more" in notes(study)
    (axes,) = figures.differences(study, drawing.WIDE).axes
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx((-1.5, 1.5))
    assert conclusion_on(pair, made(Swin=FIVE, ViT=FIVE[::-1]).verdict).startswith("equal") is False


@pytest.mark.parametrize(
    ("test", "words"),
    [("pooled", "Student's t on seeds"), ("exact", "all regroupings"), ("paired", "Student's t on the differences")],
)
def test_the_notes_name_the_test(test: str, words: str) -> None:
    study = made({"test": test}, Swin=FIVE, ViT=minus(FIVE, 1))
    assert f"by {words}" in notes(study)


@pytest.mark.parametrize(("seeds", "share"), [(3, 63), (7, 35), (14, 19)])
def test_what_no_test_of_few_seeds_sees_is_said(seeds: int, share: int) -> None:
    study = made(Swin=(3 * FIVE)[:seeds], ViT=(3 * FIVE)[:seeds])
    text = " ".join(limits(study.verdict)).replace(SPACE, " ")
    assert f"No failure in {seeds} seeds says little about rare ones" in text
    assert f"it excludes only that more than {share} % of seeds fail." in text
    assert "up to 17 % of studies of equal variants" in text
    everyone_failed = [Outcome(Run(name, 99, {}, Path("x")), "exit status 1") for name in ("Swin", "ViT")]
    assert "No failure" not in " ".join(limits(dataclasses.replace(study, failures=everyone_failed).verdict))


def test_a_single_seed_is_not_tested() -> None:
    study = made(Swin=[0.95], ViT=[0.9])
    assert conclusion_on(study.verdict.pairs[0], study.verdict).replace(SPACE, " ") == "not tested (1 seed each)"
    assert "A single seed cannot show what is chance." in notes(study)


def test_the_chart_shows_undecided_pairs_hollow() -> None:
    study = made(Swin=FIVE, ViT=minus(FIVE, 5), Other=FIVE)
    (axes,) = figures.differences(study, drawing.NARROW).axes
    filled = [line.get_fillstyle() == "full" for line in axes.lines if line.get_marker() not in ("None", "", None)]
    assert filled == [pair.settled for pair in study.verdict.pairs]
