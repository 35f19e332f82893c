"""The page about a study along an axis: a curve of each variant, crossings, laws, and all places."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from referee.along import Line, Reference, best_where, interval_of, number
from referee.formats import NONE, SPACE, counted, joined
from referee.report.along import line_parts
from referee.report.document import Code, Document, Links, Note, Part, Row, Section, Table, Text, write_document

from vitlab.studies.file.runs import own_share
from vitlab.studies.file.study import Study
from vitlab.studies.file.variants import Axis
from vitlab.studies.report.cost import speed_remarks
from vitlab.studies.report.remarks import ABOVE, objections, remarks, remarks_above
from vitlab.studies.report.sections import command_of, remarks_section, study_file
from vitlab.studies.report.verdict import judged
from vitlab.studies.results.table import StudyResults


def line_of(axis: Axis, grid: Sequence[StudyResults]) -> Line:
    """Return the results at all places of an axis."""
    x, labels = [place.x for place in axis.places], [place.label for place in axis.places]
    level = min(results.verdict.level for results in grid) / len(grid)
    knn = [results.baselines.knn for results in grid if results.baselines]
    pixels = Reference("k-NN on pixels", knn, "k-NN, on the first seed's draw of the images alone")
    reference = pixels if len(knn) == len(grid) else None
    return Line(axis.name, x, labels, [judged(results) for results in grid], level, reference=reference)


def answer(axis: Axis, grid: Sequence[StudyResults]) -> str:
    """Return the study's answer in a sentence."""
    if not all(results.finished for results in grid):
        return "Some places have no finished run, so there is nothing to say about the axis."
    return best_where(line_of(axis, grid))


def write_curves(study: Study, grid: Sequence[StudyResults], folder: Path) -> Path:
    """Write report.html and report.md about all places of a study; return the path of the first."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    assert study.along is not None
    sections = [Section("Places", _places(study, study.along, grid))]
    if all(results.finished for results in grid):
        parts = line_parts(line_of(study.along, grid), "curves", folder / "figures")
        sections.insert(0, Section(f"Along {study.along.name}", parts))
    command = Code(command_of(study, folder.parent))
    above = _above(grid)
    below = [line for line in _merged(grid, remarks) if line not in above]
    further = [remarks_section(below)] if below else []
    document = Document(
        title=f"{study.name} – a comparison along {study.along.name}",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=answer(study.along, grid),
        lead=[_summary(study, grid)],
        remarks=above,
        sections=[*sections, *further, Section("Reproduce", [command, study_file(study)])],
        question=study.question,
    )
    return write_document(document, folder)


def _above(grid: Sequence[StudyResults]) -> list[str]:
    """Return the objections of all places, and as many of the other gravest remarks as a place alone has."""
    void = _merged(grid, objections)
    gravest = [line for line in _merged(grid, remarks_above) if line not in void]
    return [*void, *gravest[:ABOVE]]


def _merged(grid: Sequence[StudyResults], listed: Callable[[StudyResults], list[str]]) -> list[str]:
    """Return the remarks of all places, those that are not of every place with their names.

    The page shows no speeds, so what is remarked on them is left to the pages of the places.
    """
    by_text: dict[str, list[str]] = {}
    for results in grid:
        of_speeds = speed_remarks(results)
        for remark in listed(results):
            if remark not in of_speeds:
                by_text.setdefault(remark, []).append(results.study.place)
    return [text if len(places) == len(grid) else f"At {joined(places)}: {text}" for text, places in by_text.items()]


def _summary(study: Study, grid: Sequence[StudyResults]) -> str:
    runs = sum(len(results.finished) for results in grid)
    minutes = sum(own_share(study, each.run) * each.seconds for results in grid for each in results.finished) / 60
    length = "the same number of epochs" if study.budget and study.budget.kind == "epochs" else "the same budget"
    spent = f" {length[0].upper()}{length[1:]} ({study.budget}) everywhere." if study.budget else ""
    level = min(results.verdict.level for results in grid)
    tested = (
        "Statements about several places are valid for all of them together: each is tested at "
        f"{level:.2g}{SPACE}/{SPACE}{len(grid)}."
    )
    return (
        f"{counted(len(study.variants), 'variant')}, {counted(len(study.seeds), 'seed')} each, at "
        f"{counted(len(grid), 'place')}: {counted(runs, 'run')}, {minutes:,.0f} minutes of training.{spent} {tested}"
    )


def _places(study: Study, axis: Axis, grid: Sequence[StudyResults]) -> list[Part]:
    metric, rows = grid[0].metric, []
    for place, results in zip(axis.places, grid, strict=True):
        scores = {}
        for result in results.ranking:
            interval, digits = interval_of(result.judged, results.outcomes.dependence), results.verdict.digits
            scores[result.variant] = f"{metric.text(interval.mean, digits)} {metric.bracket(interval, digits)}"
        knn = f"{100 * results.baselines.knn:.1f}" if results.baselines else NONE
        rows.append(Row(number(place.x), [*(scores.get(variant, NONE) for variant in study.variants), knn]))
    heading = axis.name[0].upper() + axis.name[1:]
    table = Table("Places", [heading, *study.variants, "k-NN"], rows)
    pages = [(results.study.place, f"{results.study.folder(Path()).name}/report.html") for results in grid]
    return [
        table,
        Note(f"{metric.column}: mean, with the 95 % interval over seeds and test images."),
        Text("Each place has its own report, in the same folder:"),
        Links(pages),
    ]
