"""The report about a study with axes: a curve of each variant, where they cross, and which is best where."""

import math
import shlex
import time
from collections.abc import Sequence
from itertools import combinations, groupby, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from vitlab.studies.axes import Axis
from vitlab.studies.format import NONE, SPACE, counted, joined, signed, tick
from vitlab.studies.metric import Metric
from vitlab.studies.report import figures
from vitlab.studies.report.document import (
    Code,
    Details,
    Document,
    Figure,
    Heading,
    Note,
    Part,
    Row,
    Section,
    Table,
    Text,
    render,
)
from vitlab.studies.report.figures import Chart, Layout
from vitlab.studies.report.remarks import objections, remarks
from vitlab.studies.report.verdict import verdict
from vitlab.studies.results import Pair, StudyResults
from vitlab.studies.run_results import VariantResult
from vitlab.studies.statistics.comparison import LEVEL, p_value, step_down
from vitlab.studies.statistics.curves import Crossing, Gap, Law, Level, crossing, power_law, signs
from vitlab.studies.statistics.intervals import Interval, t_interval
from vitlab.studies.study import Study


class Line(NamedTuple):
    """The results along the numeric axis of a study, at one place of its other axis."""

    name: str  # of that place; empty without another axis
    axis: Axis
    points: list[StudyResults]  # by place
    level: float  # at which each place is tested, so that what is said of all of them holds at once

    @property
    def x(self) -> list[float]:
        """The places."""
        return [place.x or 0.0 for place in self.axis.places]

    @property
    def labels(self) -> list[str]:
        """Their names."""
        return [place.label for place in self.axis.places]

    @property
    def variants(self) -> list[str]:
        """The variants that finished runs everywhere, in the order of the study."""
        common = set.intersection(*({result.variant for result in point.ranking} for point in self.points))
        return [variant for variant in self.points[0].study.variants if variant in common]

    def at(self, variant: str) -> list[VariantResult]:
        """Return the results of a variant by place."""
        return [next(r for r in point.ranking if r.variant == variant) for point in self.points]


def lines_of(study: Study, found: Sequence[StudyResults]) -> list[Line]:
    """Return the results of a grid along its numeric axis, one line for each place of the other axis."""
    numeric = next((axis for axis in study.along if axis.numeric), None)
    if numeric is None:
        return []
    lines: dict[str, list[StudyResults]] = {}
    for places, results in zip(product(*(axis.places for axis in study.along)), found, strict=True):
        other = ", ".join(place.label for axis, place in zip(study.along, places, strict=True) if not axis.numeric)
        lines.setdefault(other, []).append(results)
    level = min(results.level for results in found) / len(found)
    return [Line(name, numeric, points, level) for name, points in lines.items()]


# ---- where which variant is best


def answers(study: Study, found: Sequence[StudyResults]) -> list[str]:
    """Return what the study says, in sentences."""
    if not all(results.finished for results in found):
        return ["Some places have no finished run, so there is nothing to say about the axis."]
    lines = lines_of(study, found)
    if lines:
        return [f"{line.name}: {text}" if line.name else text for line in lines for text in [best_where(line)]]
    general = [in_general(found)] if study.along[0].name == "data" else []
    return [*(f"{results.study.place}: {verdict(results)}" for results in found), *general]


def best_where(line: Line) -> str:
    """Return which variants are best in which part of the axis."""
    kinds = [(_missing(point), not_beaten(point, line.level)) for point in line.points]
    parts = []
    for (missing, top), group in groupby(range(len(kinds)), key=lambda k: kinds[k]):
        places = list(group)
        where = _range(line, places[0], places[-1])
        but = f" ({joined(missing)} finished no run there)" if missing else ""
        compared = len(line.points[places[0]].ranking)
        if not top:
            parts.append(f"{where} the variants are not comparable{but}")
        elif compared == 1:
            parts.append(f"{where} nothing is compared{but}")
        elif len(top) == 1:
            (best,) = top
            leads = [_lead(line.points[k], best) for k in places]
            metric, digits = line.points[0].metric, line.points[0].digits
            by = " to ".join(dict.fromkeys(metric.text(end, digits) for end in (min(leads), max(leads))))
            unit = " points" if metric.is_accuracy else ""
            parts.append(f"{where} {best} is better than all others, by {by}{unit}{but}")
        elif len(top) == compared:
            parts.append(f"{where} no variant is better than all others or worse{but}")
        else:
            parts.append(f"{where} {joined(top)} are best and cannot be told apart{but}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def not_beaten(point: StudyResults, level: float) -> tuple[str, ...]:
    """Return the variants that no other is better than; none where they are not comparable."""
    if objections(point):
        return ()
    worse = {pair.worse.variant for pair in point.pairs if _settled(pair, level)}
    finished = {result.variant for result in point.ranking} - worse
    return tuple(variant for variant in point.study.variants if variant in finished)


def _settled(pair: Pair, level: float) -> bool:
    return pair.difference is not None and pair.difference.adjusted < level


def _missing(point: StudyResults) -> tuple[str, ...]:
    """Return the variants without a finished run at a place."""
    finished = {result.variant for result in point.ranking}
    return tuple(variant for variant in point.study.variants if variant not in finished)


def _lead(point: StudyResults, best: str) -> float:
    """Return by how much a variant leads the next one."""
    return min(pair.lead for pair in point.pairs if pair.better.variant == best)


def _range(line: Line, first: int, last: int) -> str:
    labels, end = line.labels, len(line.labels) - 1
    if (first, last) == (0, end):
        return f"from {_number(line.x[0])} to {labels[end]},"
    if first == last:
        return f"at {labels[first]},"
    if first == 0:
        return f"up to {labels[last]},"
    if last == end:
        return f"from {labels[first]} on,"
    return f"from {_number(line.x[first])} to {labels[last]},"


def in_general(found: Sequence[StudyResults]) -> str:
    """Return what holds over all data sets: the sets are a sample, and a lead over them has their Student's t."""
    over = f"over these {len(found)} data sets as a sample of others"
    void = [results.study.place for results in found if objections(results)]
    if void:
        return f"In general, {over}: nothing, since the variants are not comparable on {joined(void)}."
    lost = {variant for results in found for variant in _missing(results)}
    metric, variants = found[0].metric, [variant for variant in found[0].study.variants if variant not in lost]
    pairs = list(combinations(variants, 2))
    leads = [[_score(results, a) - _score(results, b) for results in found] for a, b in pairs]
    freedom = len(found) - 1
    p = [p_value(float(np.mean(each)), float(np.var(each, ddof=1)) / len(each), 0.0, freedom) for each in leads]
    parts = []
    for (a, b), each, own in zip(pairs, leads, step_down(p, len(variants)), strict=True):
        if own < LEVEL:
            interval = t_interval(each)
            first, second = (a, b) if metric.sign * interval.mean > 0 else (b, a)
            digits = max(results.digits for results in found)
            low, mean, high = (metric.text(value, digits) for value in sorted(map(abs, interval)))
            parts.append(f"{first} is better than {second} by {mean} ({low} to {high})")
    but = f" {joined(sorted(lost))} finished no run on some of them." if lost else ""
    return f"In general, {over}: {'; '.join(parts) or 'no variant is better than another'}.{but}"


def _score(results: StudyResults, variant: str) -> float:
    return next(result.score.mean for result in results.ranking if result.variant == variant)


# ---- curves


def errors(line: Line, variant: str) -> np.ndarray | None:
    """Return the errors of a variant by place and seed, (K, S) with the seeds that all places have; None: no error."""
    metric = line.points[0].metric
    results = line.at(variant)
    shared = set.intersection(*({run.run.seed for run in result.runs} for result in results))
    scores = np.array([[run.score for run in result.runs if run.run.seed in shared] for result in results])
    if metric.is_accuracy:
        return np.maximum(1 - scores, 0.5 / len(line.points[0].labels))
    return scores if metric.mode == "min" and (scores > 0).all() else None


def crossing_of(line: Line, a: str, b: str, pairs: int) -> tuple[Crossing | None, list[int]]:
    """Return where two variants cross, and which of them is better at each place: −1 the first, 1 the second."""
    gaps = []
    if any(objections(point) for point in line.points):
        return None, []
    for point in line.points:
        pair = next(pair for pair in point.pairs if {pair.better.variant, pair.worse.variant} == {a, b})
        first, second = (_error(point, variant) for variant in (a, b))
        if pair.difference is None or first is None or second is None:
            return None, []
        gaps.append(Gap(first, second, pair.difference.seeds, pair.difference.images, pair.difference.freedom))
    level = line.level * len(line.points) / pairs  # of a pair at all places
    return crossing(line.x, gaps, level), signs(gaps, level)


def _error(point: StudyResults, variant: str) -> float | None:
    score, metric = _score(point, variant), point.metric
    if metric.is_accuracy:
        return max(1 - score, 0.5 / len(point.labels))
    return score if metric.mode == "min" and score > 0 else None


def interval_of(result: VariantResult, metric: Metric) -> Interval:
    """Return the mean score of a variant with its 95 % interval over seeds and test images."""
    interval = Interval(*(metric.sign * value for value in Level.of(result.outcomes).interval))
    low, high = sorted(interval[1:])
    whole = Interval(interval.mean, low, high)
    return whole.within(0, 1) if metric.is_accuracy else whole


def law_of(line: Line, variant: str) -> Law | None:
    """Return the power law of a variant's error."""
    by_seed = errors(line, variant)
    if by_seed is None:
        return None
    return power_law(line.x, by_seed, [Level.of(result.outcomes).images for result in line.at(variant)])


def curves_chart(line: Line, laws: dict[str, Law], crossings: Sequence[Crossing], name: str) -> Chart:
    """Return the chart of a line: scores with bands, and errors with their laws."""
    metric = line.points[0].metric

    def draw(_: object, layout: Layout) -> Drawn:
        figure, panels = figures.panels_of(layout, 2 if laws else 1, 300)
        scale = metric.scale
        for at, low, high, _ in crossings:
            panels[0].axvspan(low, high, color=figures.RULE, zorder=0, gid=f"{figures.TIP}cross at {_rounded(at)}")
        for variant in line.variants:
            index = list(line.points[0].study.variants).index(variant)
            intervals = [interval_of(result, metric) for result in line.at(variant)]
            mean, low, high = scale * np.array(intervals).T
            figures.draw_curve(panels[0], np.array(line.x), mean, low, high, variant, index)
            if variant in laws:
                style = figures.style_of(index)
                places = np.geomspace(line.x[0], line.x[-1], 60)
                own = errors(line, variant)
                assert own is not None
                panels[1].plot(line.x, scale * own.mean(axis=1), **(style | {"linestyle": "none"}))
                panels[1].plot(places, scale * laws[variant].error(places), linewidth=1.2, **(style | {"marker": ""}))
        if all(point.baselines for point in line.points):
            knn = [100 * point.baselines.knn for point in line.points if point.baselines]
            panels[0].plot(
                line.x, knn, color=figures.MUTED, linestyle=figures.DASHED, linewidth=1.2, label="k-NN on pixels"
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
            axes.set_xticks(shown, [_number(x) for x in shown])
            axes.xaxis.set_minor_locator(NullLocator())
        figures.put_legend(figure, panels[0], layout)
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
        for number, line in enumerate(lines_of(study, found)):
            parts = _line(line, "curves" if number == 0 else f"curves-{number}", folder)
            sections.insert(number, Section(f"Along {line.axis.name}{f', {line.name}' if line.name else ''}", parts))
    commands: list[Part] = [Code(f"python -m vitlab compare --config {shlex.quote(str(study.path))}")]
    commands += [Details("The study's file", [Code(study.path.read_text(encoding="utf-8").strip())])]
    heading, *others = answers(study, found)
    document = Document(
        title=f"{study.name} – a comparison along {joined([axis.name for axis in study.along])}",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading=heading,
        lead=[*others, _summary(study, found)],
        remarks=_remarks(found),
        sections=[*sections, Section("Reproduce", commands)],
    )
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(document, name), encoding="utf-8")
    return folder / "report.html"


def _remarks(found: Sequence[StudyResults]) -> list[str]:
    """Return the remarks of all places, those that are not of every place with their names."""
    by_text: dict[str, list[str]] = {}
    for results in found:
        for remark in remarks(results):
            by_text.setdefault(remark, []).append(results.study.place)
    return [text if len(places) == len(found) else f"At {joined(places)}: {text}" for text, places in by_text.items()]


def _summary(study: Study, found: Sequence[StudyResults]) -> str:
    runs = sum(len(results.finished) for results in found)
    minutes = sum(result.seconds for results in found for result in results.finished) / 60
    length = "the same number of epochs" if study.budget and study.budget.kind == "epochs" else "the same budget"
    spent = f" {length[0].upper()}{length[1:]} ({study.budget}) everywhere." if study.budget else ""
    level = min(results.level for results in found)
    tested = f"Each place is tested for itself, at {level:.2g}."
    if lines_of(study, found):
        tested = (
            "What is said of several places holds for all of them at once: each is tested at "
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
    drawing = figures.draw(curves_chart(line, laws, places, name), None, folder / "figures")
    metric = line.points[0].metric
    parts: list[Part] = [
        Figure(
            drawing,
            "Left: mean over seeds; band: 95 % interval over seeds and test images."
            + (" Shaded: where two curves cross." if places else "")
            + (" Right: the error, and the law fitted to it." if laws else ""),
        )
    ]
    if any(settled for _, settled in crossings.values()):
        rows = [Row(f"{a} and {b}", _crossing(line, a, b, *own)) for (a, b), own in crossings.items()]
        columns = ["Variants", f"Cross at, {line.axis.name}", "95 % interval", "In words"]
        parts += [Heading("Crossings"), Table("Crossings", columns, rows, left=["In words"], wrapped=["In words"])]
    if laws:
        rows = [Row(variant, _law(own, metric)) for variant, own in laws.items()]
        unit = ", %" if metric.is_accuracy else ""
        columns = ["Variant", f"α, the floor{unit}", "γ, the rate"]
        parts += [
            Heading("Laws"),
            Table("Laws", columns, rows),
            Note(
                "Fitted: error = α + η x^−γ, where x is the axis. In brackets 95 % intervals over seeds and test "
                "images. A floor whose interval reaches 0 is not known. No law holds beyond the places."
            ),
        ]
    return parts


def _crossing(line: Line, a: str, b: str, found: Crossing | None, settled: Sequence[int]) -> list[str]:
    if found:
        before, after = (a, b) if found.from_first else (b, a)
        ends = f"{_rounded(found.low)} to {_rounded(found.high)}"
        return [_rounded(found.at), ends, f"{before} is better before, {after} after"]
    better = {sign for sign in settled if sign}
    if len(better) > 1:
        return [NONE, NONE, "they cross more than once"]
    if not better:
        return [NONE, NONE, "nowhere told apart"]
    who = a if better == {-1} else b
    if all(settled):
        return [NONE, NONE, f"do not cross in this range: {who} is better everywhere"]
    where = joined([_number(x) for x, sign in zip(line.x, settled, strict=True) if sign])
    return [NONE, NONE, f"no crossing settled: {who} is better at {where}, elsewhere they are not told apart"]


def _number(value: float) -> str:
    """Return a number of the axis: 1,078, or 5 M."""
    return f"{value:,.6g}" if abs(value) < 1e5 else tick(value)


def _rounded(value: float) -> str:
    """Return two significant digits, three where the first is 1."""
    if value == 0:
        return "0"
    digits = 2 if f"{abs(value):e}"[0] == "1" else 1
    return _number(round(value, digits - math.floor(math.log10(abs(value)))))


def _law(own: Law, metric: Metric) -> list[str]:
    def shown(interval: tuple[float, float, float], scale: float, digits: int) -> str:
        mean, low, high = (signed(scale * value, digits) for value in interval)
        return f"{mean} [{low}, {high}]"

    return [shown(own.floor, metric.scale, 1 if metric.is_accuracy else 3), shown(own.rate, 1, 2)]


def _places(study: Study, found: Sequence[StudyResults]) -> list[Part]:
    metric = found[0].metric
    rows = []
    for results in found:
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
        rows.append(Row(results.study.place, [*cells, knn]))
    what = metric.column
    table = Table("Places", ["Place", *(f"{variant}" for variant in study.variants), "k-NN"], rows)
    folders = "\n".join(f"{results.study.folder(Path()).name}/report.html" for results in found)
    return [
        table,
        Note(f"{what}: mean, with the 95 % interval over seeds and test images."),
        Text("Each place has a report of its own, beside this one:"),
        Code(folders),
    ]
