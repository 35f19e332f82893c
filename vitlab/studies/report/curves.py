"""The page about a study with axes: a curve of each variant, crossings, laws, and all places."""

import shlex
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

from referee.along import Line, Reference, best_where, in_general, interval_of, number
from referee.formats import NONE, SPACE, counted, joined
from referee.report.along import line_parts
from referee.report.document import Code, Document, Links, Note, Part, Row, Section, Table, Text, write_document

from vitlab.studies.file.runs import own_share
from vitlab.studies.file.study import Study
from vitlab.studies.report.cost import speed_remarks
from vitlab.studies.report.remarks import ABOVE, objections, remarks, remarks_above
from vitlab.studies.report.sections import remarks_section, study_file
from vitlab.studies.report.verdict import judged, verdict
from vitlab.studies.results.table import StudyResults


def lines_of(study: Study, grid: Sequence[StudyResults]) -> list[Line]:
    """Return the results of a grid along its numeric axis, one line for each place of the other axis."""
    numeric = next((axis for axis in study.along if axis.numeric), None)
    if numeric is None:
        return []
    lines: dict[str, list[StudyResults]] = {}
    for places, results in zip(product(*(axis.places for axis in study.along)), grid, strict=True):
        other = ", ".join(place.label for axis, place in zip(study.along, places, strict=True) if not axis.numeric)
        lines.setdefault(other, []).append(results)
    level = min(results.level for results in grid) / len(grid)
    x, labels = [place.x or 0.0 for place in numeric.places], [place.label for place in numeric.places]
    return [
        Line(numeric.name, x, labels, [judged(point) for point in points], level, name, _reference(points))
        for name, points in lines.items()
    ]


def _reference(points: Sequence[StudyResults]) -> Reference | None:
    knn = [point.baselines.knn for point in points if point.baselines]
    note = "k-NN, on the first seed's draw of the images alone"
    return Reference("k-NN on pixels", knn, note) if len(knn) == len(points) else None


def answers(study: Study, grid: Sequence[StudyResults]) -> list[str]:
    """Return the study's answers in sentences."""
    if not all(results.finished for results in grid):
        return ["Some places have no finished run, so there is nothing to say about the axis."]
    lines = lines_of(study, grid)
    if lines:
        return [f"{line.name}: {text}" if line.name else text for line in lines for text in [best_where(line)]]
    general = []
    if study.along[0].name == "data":
        places = [results.study.place for results in grid]
        general = [in_general(places, [judged(results) for results in grid])]
    return [*(f"{results.study.place}: {verdict(results)}" for results in grid), *general]


def write_curves(study: Study, grid: Sequence[StudyResults], folder: Path) -> Path:
    """Write report.html and report.md about all places of a study; return the path of the first."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = [Section("Places", _places(study, grid))]
    finished = all(results.finished for results in grid)
    if finished:
        for k, line in enumerate(lines_of(study, grid)):
            parts = line_parts(line, "curves" if k == 0 else f"curves-{k}", folder / "figures")
            sections.insert(k, Section(f"Along {line.axis}{f', {line.name}' if line.name else ''}", parts))
    command = Code(f"python -m vitlab compare --config {shlex.quote(str(study.path))}")
    heading, *others = answers(study, grid)
    above = _above(grid)
    below = [line for line in _merged(grid, remarks) if line not in above]
    further = [remarks_section(below)] if below else []
    document = Document(
        title=f"{study.name} – a comparison along {joined([axis.name for axis in study.along])}",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=heading,
        lead=[*others, _summary(study, grid)],
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
    level = min(results.level for results in grid)
    tested = f"Each place is tested for itself, at {level:.2g}."
    if lines_of(study, grid):
        tested = (
            "Statements about several places are valid for all of them together: each is tested at "
            f"{level:.2g}{SPACE}/{SPACE}{len(grid)}."
        )
    return (
        f"{counted(len(study.variants), 'variant')}, {counted(len(study.seeds), 'seed')} each, at "
        f"{counted(len(grid), 'place')}: {counted(runs, 'run')}, {minutes:,.0f} minutes of training.{spent} {tested}"
    )


def _places(study: Study, grid: Sequence[StudyResults]) -> list[Part]:
    metric, axis = grid[0].metric, study.along[0]
    alone = axis.numeric and len(study.along) == 1
    names = [number(place.x or 0.0) for place in axis.places] if alone else [results.study.place for results in grid]
    rows = []
    for name, results in zip(names, grid, strict=True):
        by_name = {result.variant: result for result in results.ranking}
        cells = []
        for variant in study.variants:
            result = by_name.get(variant)
            if result is None:
                cells.append(NONE)
                continue
            interval, digits = interval_of(result.judged), results.digits
            cells.append(f"{metric.text(interval.mean, digits)} {metric.bracket(interval, digits)}")
        knn = f"{100 * results.baselines.knn:.1f}" if results.baselines else NONE
        rows.append(Row(name, [*cells, knn]))
    what = metric.column
    heading = axis.name[0].upper() + axis.name[1:] if alone else "Place"
    table = Table("Places", [heading, *study.variants, "k-NN"], rows)
    pages = [(results.study.place, f"{results.study.folder(Path()).name}/report.html") for results in grid]
    return [
        table,
        Note(f"{what}: mean, with the 95 % interval over seeds and test images."),
        Text("Each place has its own report, in the same folder:"),
        Links(pages),
    ]
