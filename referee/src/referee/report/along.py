"""The report on a study along a numeric axis: which variant is best where, curves, and where they cross.

Two curves cross between two places at which the pair is settled in opposite ways, at the level of all places and pairs
together. How far between them is not known.
"""

import math
from itertools import combinations, groupby, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import NullLocator

from referee.formats import NONE, joined, tick
from referee.report import drawing
from referee.report.document import Figure, Heading, Part, Row, Table, Text
from referee.report.drawing import DASHED, MUTED, Chart, Layout, put_legend
from referee.statistics.contrast import INDEPENDENT, Cells, Dependence, Interval
from referee.verdict import VOID, Variant, Verdict


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
    parts, labels, end = [], line.labels, len(line.labels) - 1
    for (none, one, top), group in groupby(range(len(kinds)), key=lambda k: kinds[k]):
        places = list(group)
        i, j = places[0], places[-1]
        start = number(line.x[i]) if labels[i][:1].isdigit() else labels[i]  # depth 6 to depth 12
        where = f"from {start} to {labels[j]},"
        if i == j:
            where = f"at {labels[i]},"
        elif j - i == 1 < end:
            where = f"at {start} and {labels[j]},"
        elif i == 0 and j < end:
            where = f"up to {labels[j]},"
        elif j == end and i > 0:
            where = f"from {labels[i]} on,"
        few = [f"{joined(names)} finished {word} run there" for names, word in ((none, "no"), (one, "one")) if names]
        but = f" ({joined(few)})" if few else ""
        compared = len(line.points[i].outcomes.variants) - len(none) - len(one)
        if compared < 2:
            parts.append(f"{where} nothing is compared{but}")
        elif not top:
            parts.append(f"{where} the variants are not comparable{but}")
        elif len(top) == 1:
            pairs = [[pair for pair in line.points[k].pairs if pair.better.name == top[0]] for k in places]
            leads = [min(pair.lead for pair in each if pair.difference is not None) for each in pairs]
            metric, digits = line.points[0].metric, max(point.digits for point in line.points)
            by = " to ".join(dict.fromkeys(metric.text(end, digits) for end in (min(leads), max(leads))))
            unit = " points" if metric.is_fraction else ""
            parts.append(f"{where} {top[0]} is better than all others, ahead of the next by {by}{unit}{but}")
        elif len(top) == compared == 2:
            parts.append(f"{where} it is undecided whether {joined(top, 'or')} is better{but}")
        else:
            others = "another" if len(top) == compared else joined(top, "or")
            parts.append(f"{where} no variant is better than {others}{but}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def number(value: float) -> str:
    """Return a number of the axis: 1,078, or 5 M."""
    return f"{value:,.6g}" if abs(value) < 1e5 else tick(value)


# ---- curves, and where they cross


def interval_of(variant: Variant, dependence: Dependence = INDEPENDENT) -> Interval:
    """Return the mean score of a variant with its 95 % interval over seeds and test items."""
    if len(variant.runs) == 1:
        return Interval(variant.score.mean, math.nan, math.nan)
    contrast = Cells([variant.outcomes], dependence=dependence).contrast({0: 1.0})
    mean, *ends = (variant.metric.sign * value for value in contrast.interval)
    interval = Interval(mean, *sorted(ends))
    return interval.within(0, 1) if variant.metric.is_fraction else interval


def line_parts(line: Line, name: str, folder: Path) -> list[Part]:
    """Return the figure of a line, drawn into a folder, and between which places its variants cross."""
    if not line.variants:
        return [Text("No variant finished runs at every place, so there is no curve.")]
    first, metric = line.points[0], line.points[0].metric
    pairs = list(combinations(line.variants, 2))
    rows, brackets = [], []
    for a, b in pairs:
        bracket, words = _crossing(line, a, b, len(pairs))
        rows.append(Row(f"{a} and {b}", [" and ".join(map(number, bracket)) if bracket else NONE, words]))
        brackets += [bracket] if bracket else []

    def draw(_: object, layout: Layout) -> Drawn:
        figure, (axes,) = drawing.panels_of(layout, 1, 300)
        for low, high in brackets:
            axes.axvspan(low, high, color=drawing.RULE, zorder=0)
        for variant in line.variants:
            by_place = zip(line.at(variant), line.points, strict=True)
            intervals = np.array([interval_of(each, point.outcomes.dependence) for each, point in by_place])
            mean, low, high = metric.scale * intervals.T
            index = first.outcomes.variants.index(variant)
            drawing.draw_curve(axes, np.array(line.x), mean, low, high, variant, index)
        if line.reference is not None:
            beside = metric.scale * np.array(line.reference.scores)
            axes.plot(line.x, beside, label=line.reference.name, linewidth=1.2, color=MUTED, linestyle=DASHED)
        axes.set(title=metric.axis(), xlabel=line.axis, xscale="log" if min(line.x) > 0 else "linear")
        ticks = line.x if layout.columns > 1 or len(line.x) < 6 else line.x[::2]
        axes.set_xticks(ticks, [number(x) for x in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        put_legend(figure, axes, layout)
        return figure

    chart = Chart(name, f"Test {metric.label} of each variant against {line.axis}.", draw)
    caption = f"Mean over seeds; band: 95 % interval over seeds and test {first.outcomes.unit}s."
    caption += " Shaded: between these places two curves cross." if brackets else ""
    caption += f" Dashed: {line.reference.note}." if line.reference else ""
    columns = ["Variants", f"Cross between, {line.axis}", "In words"]
    table = Table("Crossings", columns, rows, left=["In words"], wrapped=["In words"])
    figure = Figure(drawing.draw(chart, None, folder), caption)
    return [figure, Heading("Crossings"), table] if rows else [figure]


def _crossing(line: Line, a: str, b: str, pairs: int) -> tuple[tuple[float, float] | None, str]:
    """Return the places between which two of so many pairs of variants cross, and in words how they compare."""
    better, missing = list[tuple[str, float]](), []
    for x, label, point in zip(line.x, line.labels, line.points, strict=True):
        if point.verdict == VOID or (lead := point.lead_of(a, b)) is None:
            missing.append(label)
            continue
        _, low, high = lead.interval_at(line.level / pairs)
        better += [(a if low > 0 else b, x)] * (low > 0 or high < 0)
    turns = [(low, high) for (before, low), (after, high) in pairwise(better) if before != after]
    where = {name: joined([number(x) for who, x in better if who == name]) for name, _ in better}
    words = [f"{name} is better at {at}" for name, at in where.items()]
    words = words or ["nowhere distinguished"] * (len(missing) < len(line.x))
    if missing:
        words.append(f"not tested at {joined(missing)}, where they are not comparable or one has a single run")
    return turns[0] if len(turns) == 1 and not missing else None, "; ".join(words)
