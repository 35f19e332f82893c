"""The figure and the tables of studies along an axis: a curve of each variant, crossings, and laws."""

import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from referee.along import Line, crossing_of, errors, interval_of, law_of, number, untested
from referee.formats import NONE, joined, p_value, signed, tick
from referee.metric import Metric
from referee.report import drawing
from referee.report.document import Figure, Heading, Note, Part, Row, Table, Text
from referee.report.drawing import DASHED, MUTED, Chart, Layout, put_legend, style_of
from referee.statistics.contrast import LEVEL, Interval
from referee.statistics.curves import Crossing, Law

NO_LOGARITHM = "a score of 0 or less has no logarithm"


def curves_chart(line: Line, laws: dict[str, Law], crossings: Sequence[Crossing], name: str) -> Chart:
    """Return the chart of a line: scores with bands, and errors with their laws."""
    metric = line.points[0].metric

    def draw(_: object, layout: Layout) -> Drawn:
        figure, panels = drawing.panels_of(layout, 2 if laws else 1, 300)
        for at, low, high, *_ in crossings:
            panels[0].axvspan(low, high, color=drawing.RULE, zorder=0, gid=f"{drawing.TIP}cross at {_rounded(at)}")
        for variant in line.variants:
            _draw_variant(panels, line, variant, laws.get(variant))
        if line.reference is not None:
            beside = metric.scale * np.array(line.reference.scores)
            panels[0].plot(line.x, beside, label=line.reference.name, linewidth=1.2, color=MUTED, linestyle=DASHED)
        panels[0].set_title(metric.axis())
        if laws:
            panels[1].set_title("test error, %" if metric.is_fraction else metric.label)
            panels[1].set_yscale("log")
            panels[1].yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
            panels[1].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panels[1].yaxis.set_minor_locator(NullLocator())
        for axes in panels:
            axes.set_xlabel(line.axis)
            axes.set_xscale("log" if min(line.x) > 0 else "linear")
            ticks = line.x if layout.columns > 1 or len(line.x) < 6 else line.x[::2]
            axes.set_xticks(ticks, [number(x) for x in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        put_legend(figure, panels[0], layout)
        return figure

    described = f"Test {metric.label} of each variant against {line.axis}, and the laws that the errors follow."
    return Chart(name, described, draw)


def _draw_variant(panels: Sequence[Axes], line: Line, variant: str, law: Law | None) -> None:
    """Draw the scores of a variant with their band, and its errors with their law."""
    index, scale = line.points[0].outcomes.variants.index(variant), line.points[0].metric.scale
    pairs = zip(line.at(variant), line.points, strict=True)
    mean, low, high = scale * np.array([interval_of(each, point.outcomes.dependence) for each, point in pairs]).T
    drawing.draw_curve(panels[0], np.array(line.x), mean, low, high, variant, index)
    if law is not None and (error := errors(line, variant)) is not None:
        style, places = style_of(index), np.geomspace(line.x[0], line.x[-1], 60)
        panels[1].plot(line.x, scale * error.mean(axis=1), **(style | {"linestyle": "none"}))
        panels[1].plot(places, scale * law.error(places), linewidth=1.2, **(style | {"marker": ""}))


def line_parts(line: Line, name: str, folder: Path) -> list[Part]:
    """Return the figure of a line, drawn into a folder, where its variants cross, and the laws of their errors."""
    if not line.variants:
        return [Text("No variant finished runs at every place, so there is no curve.")]
    pairs = list(combinations(line.variants, 2))
    crossings = {pair: crossing_of(line, *pair, len(pairs)) for pair in pairs}
    laws = {variant: law for variant in line.variants if (law := law_of(line, variant))}
    places = [each for each, _ in crossings.values() if each]
    followed = {variant: law for variant, law in laws.items() if law.p >= LEVEL}
    drawn = drawing.draw(curves_chart(line, followed, places, name), None, folder)
    unit = line.points[0].outcomes.unit
    parts: list[Part] = [
        Figure(
            drawn,
            ("Left: mean" if followed else "Mean")
            + f" over seeds; band: 95 % interval over seeds and test {unit}s."
            + (" Shaded: where two curves cross." if places else "")
            + (f" Dashed: {line.reference.note}." if line.reference else "")
            + (" Right: the error, and the law fitted to it." if followed else ""),
        )
    ]
    if any(settled for _, settled in crossings.values()):
        rows = [Row(f"{a} and {b}", _crossing(line, a, b, *crossing)) for (a, b), crossing in crossings.items()]
        columns = ["Variants", f"Cross between, {line.axis}", "Interpolated", "95 % interval", "In words"]
        parts += [Heading("Crossings"), Table("Crossings", columns, rows, left=["In words"], wrapped=["In words"])]
    return [*parts, *_laws(line, laws)] if laws else parts


def _laws(line: Line, laws: dict[str, Law]) -> list[Part]:
    metric, digits = line.points[0].metric, max(point.digits for point in line.points)
    rows = [Row(variant, _law(law, metric, digits)) for variant, law in laws.items()]
    note = (
        "Fitted: error = α + η x^−γ, where x is the axis. In brackets 95 % intervals over seeds and test "
        f"{line.points[0].outcomes.unit}s. A floor whose interval reaches 0 is not known, and then γ only from below. "
        "*p*: of places that follow such a law; below 0.05 none is given. Do not extrapolate a law beyond the places."
    )
    columns = ["Variant", f"α, the floor{', %' if metric.is_fraction else ''}", "γ, the rate", "p"]
    return [Heading("Laws"), Table("Laws", columns, rows), Note(note)]


def _crossing(line: Line, a: str, b: str, crossing: Crossing | None, settled: Sequence[int]) -> list[str]:
    if crossing:
        before, after = (a, b) if crossing.from_first else (b, a)
        ends = f"{_rounded(crossing.low)} to {_rounded(crossing.high)}"
        bracket = " and ".join(map(number, crossing.bracket))
        return [bracket, _rounded(crossing.at), ends, f"{before} is better before, {after} after"]
    nowhere = [NONE, NONE, NONE]
    if not settled:
        places = untested(line, a, b)
        why = f"at {joined(places)} the two are not comparable, or one has a single run" if places else NO_LOGARITHM
        return [*nowhere, f"not tested: {why}"]
    better = {sign for sign in settled if sign}
    if len(better) > 1:
        return [*nowhere, "they cross more than once"]
    if not better:
        return [*nowhere, "nowhere distinguished"]
    who = a if better == {-1} else b
    if all(settled):
        return [*nowhere, f"do not cross in this range: {who} is better everywhere"]
    where = joined([number(x) for x, sign in zip(line.x, settled, strict=True) if sign])
    return [*nowhere, f"no crossing settled: {who} is better at {where}, elsewhere they are not distinguished"]


def _rounded(value: float) -> str:
    """Return two significant digits, three where the first is 1."""
    digits = 3 if f"{abs(value):e}"[0] == "1" else 2
    return number(float(f"{value:.{digits}g}"))


def _law(law: Law, metric: Metric, decimals: int) -> list[str]:
    def shown(interval: Interval, scale: float, digits: int) -> str:
        mean, low, high = (signed(scale * value, digits) for value in interval)
        return f"{mean} [{low}, {high}]" if math.isfinite(interval.high) else f"{mean}, at least {low}"

    p = p_value(law.p)
    if law.p < LEVEL:
        return ["these places do not follow a power law", NONE, p]
    return [shown(law.floor, metric.scale, decimals), shown(law.rate, 1, 2), p]
