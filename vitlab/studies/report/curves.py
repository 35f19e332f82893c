"""The page about a study with axes: a curve of each variant, crossings, laws, and all places."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from referee.formats import NONE, SPACE, counted, joined, signed
from referee.report import drawing
from referee.report.document import (
    Code,
    Document,
    Figure,
    Heading,
    Links,
    Note,
    Part,
    Row,
    Section,
    Table,
    Text,
    write_document,
)
from referee.report.drawing import Chart, Layout
from referee.statistics.curves import Crossing, Law

from vitlab.studies.branching import own_share
from vitlab.studies.format import tick
from vitlab.studies.metric import Metric
from vitlab.studies.report.along import (
    Line,
    answers,
    crossing_of,
    errors,
    interval_of,
    law_of,
    lines_of,
    number,
    untested,
)
from vitlab.studies.report.cost import speed_remarks
from vitlab.studies.report.remarks import ABOVE, objections, remarks, remarks_above
from vitlab.studies.report.sections import remarks_section, study_file
from vitlab.studies.results import StudyResults
from vitlab.studies.study import Study


def curves_chart(line: Line, laws: dict[str, Law], crossings: Sequence[Crossing], name: str) -> Chart:
    """Return the chart of a line: scores with bands, and errors with their laws."""
    metric = line.points[0].metric

    def draw(_: object, layout: Layout) -> Drawn:
        figure, panels = drawing.panels_of(layout, 2 if laws else 1, 300)
        scale = metric.scale
        for at, low, high, _ in crossings:
            panels[0].axvspan(low, high, color=drawing.RULE, zorder=0, gid=f"{drawing.TIP}cross at {_rounded(at)}")
        for variant in line.variants:
            index = list(line.points[0].study.variants).index(variant)
            intervals = [interval_of(result, metric) for result in line.at(variant)]
            mean, low, high = scale * np.array(intervals).T
            drawing.draw_curve(panels[0], np.array(line.x), mean, low, high, variant, index)
            if variant in laws:
                style = drawing.style_of(index)
                places = np.geomspace(line.x[0], line.x[-1], 60)
                own = errors(line, variant)
                assert own is not None
                panels[1].plot(line.x, scale * own.mean(axis=1), **(style | {"linestyle": "none"}))
                panels[1].plot(places, scale * laws[variant].error(places), linewidth=1.2, **(style | {"marker": ""}))
        if all(point.baselines for point in line.points):
            knn = [100 * point.baselines.knn for point in line.points if point.baselines]
            panels[0].plot(
                line.x, knn, color=drawing.MUTED, linestyle=drawing.DASHED, linewidth=1.2, label="k-NN on pixels"
            )
        panels[0].set_title(metric.axis("test"))
        if laws:
            panels[1].set_title("test error, %" if metric.is_accuracy else metric.axis("test"))
            panels[1].set_yscale("log")
            panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
            panels[1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panels[1].yaxis.set_minor_locator(NullLocator())
        for axes in panels:
            axes.set_xlabel(line.axis.name)
            if min(line.x) > 0:
                axes.set_xscale("log")
            shown = line.x if layout.columns > 1 or len(line.x) < 6 else line.x[::2]
            axes.set_xticks(shown, [number(x) for x in shown])
            axes.xaxis.set_minor_locator(NullLocator())
        drawing.put_legend(figure, panels[0], layout)
        return figure

    described = f"Test {metric.label} of each variant against {line.axis.name}, and the laws that the errors follow."
    return Chart(name, described, draw)


# ---- the page


def write_curves(study: Study, found: Sequence[StudyResults], folder: Path) -> Path:
    """Write report.html and report.md about all places of a study; return the path of the first."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    sections = [Section("Places", _places(study, found))]
    finished = all(results.finished for results in found)
    if finished:
        for k, line in enumerate(lines_of(study, found)):
            parts = _line(line, "curves" if k == 0 else f"curves-{k}", folder)
            sections.insert(k, Section(f"Along {line.axis.name}{f', {line.name}' if line.name else ''}", parts))
    command = Code(f"python -m vitlab compare --config {shlex.quote(str(study.path))}")
    heading, *others = answers(study, found)
    above = _above(found)
    below = [line for line in _merged(found, remarks) if line not in above]
    further = [remarks_section(below)] if below else []
    document = Document(
        title=f"{study.name} – a comparison along {joined([axis.name for axis in study.along])}",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=heading,
        lead=[*others, _summary(study, found)],
        remarks=above,
        sections=[*sections, *further, Section("Reproduce", [command, study_file(study)])],
        question=study.question,
    )
    return write_document(document, folder)


def _above(found: Sequence[StudyResults]) -> list[str]:
    """Return the objections of all places, and as many of the other gravest remarks as a place alone has."""
    void = _merged(found, objections)
    gravest = [line for line in _merged(found, remarks_above) if line not in void]
    return [*void, *gravest[:ABOVE]]


def _merged(found: Sequence[StudyResults], listed: Callable[[StudyResults], list[str]]) -> list[str]:
    """Return the remarks of all places, those that are not of every place with their names.

    The page shows no speeds, so what is remarked on them is left to the pages of the places.
    """
    by_text: dict[str, list[str]] = {}
    for results in found:
        of_speeds = speed_remarks(results)
        for remark in listed(results):
            if remark not in of_speeds:
                by_text.setdefault(remark, []).append(results.study.place)
    return [text if len(places) == len(found) else f"At {joined(places)}: {text}" for text, places in by_text.items()]


def _summary(study: Study, found: Sequence[StudyResults]) -> str:
    runs = sum(len(results.finished) for results in found)
    minutes = sum(own_share(study, each.run) * each.seconds for results in found for each in results.finished) / 60
    length = "the same number of epochs" if study.budget and study.budget.kind == "epochs" else "the same budget"
    spent = f" {length[0].upper()}{length[1:]} ({study.budget}) everywhere." if study.budget else ""
    level = min(results.level for results in found)
    tested = f"Each place is tested for itself, at {level:.2g}."
    if lines_of(study, found):
        tested = (
            "Statements about several places are valid for all of them together: each is tested at "
            f"{level:.2g}{SPACE}/{SPACE}{len(found)}."
        )
    return (
        f"{counted(len(study.variants), 'variant')}, {counted(len(study.seeds), 'seed')} each, at "
        f"{counted(len(found), 'place')}: {counted(runs, 'run')}, {minutes:,.0f} minutes of training.{spent} {tested}"
    )


def _line(line: Line, name: str, folder: Path) -> list[Part]:
    if not line.variants:
        return [Text("No variant finished runs at every place, so there is no curve.")]
    pairs = list(combinations(line.variants, 2))
    crossings = {pair: crossing_of(line, *pair, len(pairs)) for pair in pairs}
    laws = {variant: own for variant in line.variants if (own := law_of(line, variant))}
    places = [each for each, _ in crossings.values() if each]
    drawn = drawing.draw(curves_chart(line, laws, places, name), None, folder / "figures")
    metric, baselines = line.points[0].metric, all(point.baselines for point in line.points)
    parts: list[Part] = [
        Figure(
            drawn,
            ("Left: mean" if laws else "Mean")
            + " over seeds; band: 95 % interval over seeds and test images."
            + (" Shaded: where two curves cross." if places else "")
            + (" Dashed: k-NN, on the first seed's draw of the images alone." if baselines else "")
            + (" Right: the error, and the law fitted to it." if laws else ""),
        )
    ]
    if any(settled for _, settled in crossings.values()):
        rows = [Row(f"{a} and {b}", _crossing(line, a, b, *own)) for (a, b), own in crossings.items()]
        columns = ["Variants", f"Cross at, {line.axis.name}", "95 % interval", "In words"]
        parts += [Heading("Crossings"), Table("Crossings", columns, rows, left=["In words"], wrapped=["In words"])]
    if laws:
        digits = max(point.digits for point in line.points)
        rows = [Row(variant, _law(own, metric, digits)) for variant, own in laws.items()]
        unit = ", %" if metric.is_accuracy else ""
        columns = ["Variant", f"α, the floor{unit}", "γ, the rate"]
        parts += [
            Heading("Laws"),
            Table("Laws", columns, rows),
            Note(
                "Fitted: error = α + η x^−γ, where x is the axis. In brackets 95 % intervals over seeds and test "
                "images. A floor whose interval reaches 0 is not known. Do not extrapolate a law beyond the places."
            ),
        ]
    return parts


def _crossing(line: Line, a: str, b: str, found: Crossing | None, settled: Sequence[int]) -> list[str]:
    if found:
        before, after = (a, b) if found.from_first else (b, a)
        ends = f"{_rounded(found.low)} to {_rounded(found.high)}"
        return [_rounded(found.at), ends, f"{before} is better before, {after} after"]
    if not settled:
        places = joined(untested(line, a, b))
        why = f"at {places} the two are not comparable, or one has a single run"
        return [NONE, NONE, f"not tested: {why if places else 'a score of 0 or less has no logarithm'}"]
    better = {sign for sign in settled if sign}
    if len(better) > 1:
        return [NONE, NONE, "they cross more than once"]
    if not better:
        return [NONE, NONE, "nowhere distinguished"]
    who = a if better == {-1} else b
    if all(settled):
        return [NONE, NONE, f"do not cross in this range: {who} is better everywhere"]
    where = joined([number(x) for x, sign in zip(line.x, settled, strict=True) if sign])
    return [NONE, NONE, f"no crossing settled: {who} is better at {where}, elsewhere they are not distinguished"]


def _rounded(value: float) -> str:
    """Return two significant digits, three where the first is 1."""
    if value == 0:
        return "0"
    digits = 2 if f"{abs(value):e}"[0] == "1" else 1
    return number(round(value, digits - math.floor(math.log10(abs(value)))))


def _law(own: Law, metric: Metric, decimals: int) -> list[str]:
    def shown(interval: tuple[float, float, float], scale: float, digits: int) -> str:
        mean, low, high = (signed(scale * value, digits) for value in interval)
        return f"{mean} [{low}, {high}]"

    return [shown(own.floor, metric.scale, decimals), shown(own.rate, 1, 2)]


def _places(study: Study, found: Sequence[StudyResults]) -> list[Part]:
    metric, axis = found[0].metric, study.along[0]
    alone = axis.numeric and len(study.along) == 1
    names = [number(place.x or 0.0) for place in axis.places] if alone else [results.study.place for results in found]
    rows = []
    for name, results in zip(names, found, strict=True):
        by_name = {result.variant: result for result in results.ranking}
        cells = []
        for variant in study.variants:
            result = by_name.get(variant)
            if result is None:
                cells.append(NONE)
                continue
            interval, digits = interval_of(result, metric), results.digits
            cells.append(f"{metric.text(interval.mean, digits)} {metric.bracket(interval, digits)}")
        knn = f"{100 * results.baselines.knn:.1f}" if results.baselines else NONE
        rows.append(Row(name, [*cells, knn]))
    what = metric.column
    heading = axis.name[0].upper() + axis.name[1:] if alone else "Place"
    table = Table("Places", [heading, *study.variants, "k-NN"], rows)
    pages = [(results.study.place, f"{results.study.folder(Path()).name}/report.html") for results in found]
    return [
        table,
        Note(f"{what}: mean, with the 95 % interval over seeds and test images."),
        Text("Each place has its own report, in the same folder:"),
        Links(pages),
    ]
