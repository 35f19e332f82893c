"""Studies along a numeric axis, one verdict a place: which variant is best where, curves, crossings, and laws."""

import math
from collections.abc import Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from referee.formats import NONE, joined, p_value, signed, tick
from referee.report import drawing
from referee.report.document import Figure, Heading, Note, Part, Row, Table, Text
from referee.report.drawing import DASHED, MUTED, Chart, Layout, put_legend, style_of
from referee.statistics.contrast import INDEPENDENT, LEVEL, Cells, Dependence, Interval
from referee.statistics.curves import Crossing, Law, crossing, log_ratio, power_law, signs
from referee.verdict import VOID, Variant, Verdict

LEAST_ERROR = 1e-6  # of a fraction whose items are not known
NO_LOGARITHM = "a score of 0 or less has no logarithm"


class Reference(NamedTuple):
    """Scores to draw beside a line, by place."""

    name: str
    scores: list[float]
    note: str  # what they are, below the figure


class Line(NamedTuple):
    """The verdicts along an axis."""

    axis: str
    x: list[float]  # the places
    labels: list[str]  # their names
    points: list[Verdict]  # by place
    level: float  # at which each place is tested, so that a statement about all of them is valid
    reference: Reference | None = None

    @property
    def variants(self) -> list[str]:
        """The variants that finished runs everywhere, in the order of the table."""
        common = set.intersection(*({variant.name for variant in point.ranking} for point in self.points))
        return [variant for variant in self.points[0].outcomes.variants if variant in common]

    def at(self, variant: str) -> list[Variant]:
        """Return a variant by place."""
        return [next(each for each in point.ranking if each.name == variant) for point in self.points]


# ---- where which variant is best


def best_where(line: Line) -> str:
    """Return which variants are best in which part of the axis."""
    kinds = []
    for point in line.points:
        runs = dict.fromkeys(point.outcomes.variants, 0) | {each.name: len(each.runs) for each in point.ranking}
        none, one = (tuple(name for name, count in runs.items() if count == few) for few in (0, 1))
        worse = {p.worse.name for p in point.pairs if p.difference is not None and p.difference.adjusted < line.level}
        top = tuple(name for name, count in runs.items() if count > 1 and name not in worse)
        kinds.append((none, one, () if point.verdict == VOID else top))
    parts = []
    for (none, one, top), group in groupby(range(len(kinds)), key=lambda k: kinds[k]):
        places = list(group)
        where = _range(line, places[0], places[-1])
        few = [f"{joined(names)} finished {word} run there" for names, word in ((none, "no"), (one, "one")) if names]
        but = f" ({joined(few)})" if few else ""
        compared = len(line.points[places[0]].outcomes.variants) - len(none) - len(one)
        if compared < 2:
            parts.append(f"{where} nothing is compared{but}")
        elif not top:
            parts.append(f"{where} the variants are not comparable{but}")
        elif len(top) == 1:
            (best,) = top
            pairs = [[pair for pair in line.points[k].pairs if pair.better.name == best] for k in places]
            leads = [min(pair.lead for pair in each if pair.difference is not None) for each in pairs]
            metric, digits = line.points[0].metric, max(point.digits for point in line.points)
            by = " to ".join(dict.fromkeys(metric.text(end, digits) for end in (min(leads), max(leads))))
            unit = " points" if metric.is_fraction else ""
            parts.append(f"{where} {best} is better than all others, ahead of the next by {by}{unit}{but}")
        elif len(top) == compared == 2:
            parts.append(f"{where} it is undecided whether {joined(top, 'or')} is better{but}")
        else:
            others = "another" if len(top) == compared else joined(top, "or")
            parts.append(f"{where} no variant is better than {others}{but}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _range(line: Line, first: int, last: int) -> str:
    """Return a part of the axis in words, from one place to another."""
    labels, end = line.labels, len(line.labels) - 1
    if (first, last) == (0, end):
        return f"from {number(line.x[0])} to {labels[end]},"
    if first == last:
        return f"at {labels[first]},"
    if last - first == 1:
        return f"at {number(line.x[first])} and {labels[last]},"
    if first == 0:
        return f"up to {labels[last]},"
    if last == end:
        return f"from {labels[first]} on,"
    return f"from {number(line.x[first])} to {labels[last]},"


def number(value: float) -> str:
    """Return a number of the axis: 1,078, or 5 M."""
    return f"{value:,.6g}" if abs(value) < 1e5 else tick(value)


# ---- curves, crossings and laws


def interval_of(variant: Variant, dependence: Dependence = INDEPENDENT) -> Interval:
    """Return the mean score of a variant with its 95 % interval over seeds and test items."""
    if len(variant.runs) == 1:
        return Interval(variant.score.mean, math.nan, math.nan)
    contrast = Cells([variant.outcomes], dependence=dependence).contrast({0: 1.0})
    mean, *ends = (variant.metric.sign * value for value in contrast.interval)
    interval = Interval(mean, *sorted(ends))
    return interval.within(0, 1) if variant.metric.is_fraction else interval


def errors(line: Line, variant: str) -> np.ndarray | None:
    """Return the errors of a variant by place and seed, (K, S) with the seeds that all places have; None: no error."""
    variants = line.at(variant)
    shared = set.intersection(*({run.seed for run in each.runs} for each in variants))
    scores = [
        [score for run, score in zip(each.runs, each.scores, strict=True) if run.seed in shared] for each in variants
    ]
    return _as_error(np.array(scores), line.points[0])


def _as_error(scores: np.ndarray, point: Verdict) -> np.ndarray | None:
    """Return scores as errors above 0, of logarithms what they are of; None where they are none."""
    if point.metric.is_fraction:
        missed = 1 - scores if point.metric.mode == "max" else scores
        return np.maximum(missed, 0.5 / point.items if point.items > 1 else LEAST_ERROR)
    scores = np.exp(scores) if point.metric.is_log else scores
    return scores if point.metric.mode == "min" and (scores > 0).all() else None


def law_of(line: Line, variant: str) -> Law | None:
    """Return the power law of a variant's error."""
    by_seed = errors(line, variant)
    if by_seed is None:
        return None
    dependence = [point.outcomes.dependence for point in line.points]
    cells = [Cells([v.outcomes], dependence=d) for v, d in zip(line.at(variant), dependence, strict=True)]
    return power_law(line.x, by_seed, [each.contrast({0: 1.0}).images for each in cells])


def crossing_of(line: Line, a: str, b: str, pairs: int) -> tuple[Crossing | None, list[int]]:
    """Return where two variants cross, and which is better at each place: −1 the first, 1 the second, 0 open."""
    gaps = []
    for point, *both in zip(line.points, line.at(a), line.at(b), strict=True):
        difference = point.lead_of(a, b)
        first, second = (_as_error(np.array(each.score.mean), point) for each in both)
        if point.verdict == VOID or difference is None or first is None or second is None:
            return None, []
        gap = log_ratio(float(first), float(second), difference)
        if point.metric.is_log:  # the difference is that of the logarithms
            gap = gap._replace(seeds=difference.seeds, images=difference.images)
        gaps.append(gap)
    level = line.level * len(line.points) / pairs  # of a pair at all places
    return crossing(line.x, gaps, level), signs(gaps, level)


# ---- the report


def curves_chart(line: Line, laws: dict[str, Law], crossings: Sequence[Crossing], name: str) -> Chart:
    """Return the chart of a line: scores with bands, and errors with their laws."""
    metric = line.points[0].metric

    def draw(_: object, layout: Layout) -> Drawn:
        figure, panels = drawing.panels_of(layout, 2 if laws else 1, 300)
        for at, low, high, *_ in crossings:
            panels[0].axvspan(low, high, color=drawing.RULE, zorder=0, gid=f"{drawing.TIP}cross at {_rounded(at)}")
        for variant in line.variants:
            index = line.points[0].outcomes.variants.index(variant)
            pairs = zip(line.at(variant), line.points, strict=True)
            intervals = np.array([interval_of(each, point.outcomes.dependence) for each, point in pairs])
            mean, low, high = metric.scale * intervals.T
            drawing.draw_curve(panels[0], np.array(line.x), mean, low, high, variant, index)
            if variant in laws and (error := errors(line, variant)) is not None:
                style, places = style_of(index), np.geomspace(line.x[0], line.x[-1], 60)
                panels[1].plot(line.x, metric.scale * error.mean(axis=1), **(style | {"linestyle": "none"}))
                followed = metric.scale * laws[variant].error(places)
                panels[1].plot(places, followed, linewidth=1.2, **(style | {"marker": ""}))
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
    caption = "Left: mean" if followed else "Mean"
    caption += f" over seeds; band: 95 % interval over seeds and test {unit}s."
    caption += " Shaded: where two curves cross." if places else ""
    caption += f" Dashed: {line.reference.note}." if line.reference else ""
    caption += " Right: the error, and the law fitted to it." if followed else ""
    parts: list[Part] = [Figure(drawn, caption)]
    if any(settled for _, settled in crossings.values()):
        rows = [Row(f"{a} and {b}", _crossing(line, a, b, *crossing)) for (a, b), crossing in crossings.items()]
        columns = ["Variants", f"Cross between, {line.axis}", "Interpolated", "95 % interval", "In words"]
        parts += [Heading("Crossings"), Table("Crossings", columns, rows, left=["In words"], wrapped=["In words"])]
    if not laws:
        return parts
    metric, digits, rows = line.points[0].metric, max(point.digits for point in line.points), []
    for variant, law in laws.items():
        cells = ["these places do not follow a power law", NONE]
        if law.p >= LEVEL:
            cells = [_interval(law.floor, metric.scale, digits), _interval(law.rate, 1, 2)]
        rows.append(Row(variant, [*cells, p_value(law.p)]))
    note = (
        "Fitted: error = α + η x^−γ, where x is the axis. In brackets 95 % intervals over seeds and test "
        f"{unit}s. A floor whose interval reaches 0 is not known, and then γ only from below. "
        "*p*: of places that follow such a law; below 0.05 none is given. Do not extrapolate a law beyond the places."
    )
    columns = ["Variant", f"α, the floor{', %' if metric.is_fraction else ''}", "γ, the rate", "p"]
    return [*parts, Heading("Laws"), Table("Laws", columns, rows), Note(note)]


def _crossing(line: Line, a: str, b: str, crossing: Crossing | None, settled: Sequence[int]) -> list[str]:
    """Return the cells of a pair's row; `settled`: −1 where a is better, of lower error, 1 where b is, else 0."""
    if crossing:
        before, after = (a, b) if crossing.from_first else (b, a)
        ends = f"{_rounded(crossing.low)} to {_rounded(crossing.high)}"
        bracket = " and ".join(map(number, crossing.bracket))
        return [bracket, _rounded(crossing.at), ends, f"{before} is better before, {after} after"]
    better = {sign for sign in settled if sign}
    who = a if better == {-1} else b
    if not settled:
        named = zip(line.labels, line.points, strict=True)
        places = [label for label, point in named if point.verdict == VOID or point.lead_of(a, b) is None]
        why = f"at {joined(places)} the two are not comparable, or one has a single run" if places else NO_LOGARITHM
        words = f"not tested: {why}"
    elif len(better) > 1:
        words = "they cross more than once"
    elif not better:
        words = "nowhere distinguished"
    elif all(settled):
        words = f"do not cross in this range: {who} is better everywhere"
    else:
        where = joined([number(x) for x, sign in zip(line.x, settled, strict=True) if sign])
        words = f"no crossing settled: {who} is better at {where}, elsewhere they are not distinguished"
    return [NONE, NONE, NONE, words]


def _rounded(value: float) -> str:
    """Return two significant digits, three where the first is 1."""
    digits = 3 if f"{abs(value):e}"[0] == "1" else 2
    return number(float(f"{value:.{digits}g}"))


def _interval(interval: Interval, scale: float, digits: int) -> str:
    """Return a parameter of a law with its interval; "at least" where that has no upper end."""
    mean, low, high = (signed(scale * value, digits) for value in interval)
    return f"{mean} [{low}, {high}]" if math.isfinite(interval.high) else f"{mean}, at least {low}"
