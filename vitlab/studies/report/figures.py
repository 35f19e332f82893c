"""The charts of a report: drawn once, written as SVG that follows the page's colors, and as PNG and PDF.

Every mark shows its value as a tooltip: an artist's `gid` that starts with TIP becomes the title of its SVG element.

A variant keeps its color (Okabe and Ito 2008), marker and dash pattern in all charts, so they remain readable for
color-blind readers and in black and white.
"""

import io
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from vitlab.evaluation.cost import Cost
from vitlab.evaluation.predictions import CALIBRATION_BINS
from vitlab.studies.claim import Claim
from vitlab.studies.format import tick
from vitlab.studies.metric import Metric
from vitlab.studies.results import StudyResults
from vitlab.studies.robustness import CLEAN
from vitlab.studies.run_results import VariantResult

# Placeholders for the page's colors: in the SVG, variables of the style sheet replace them.
INK, MUTED, RULE = "#1c1d20", "#5c6066", "#d9dbdf"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (1, 1)), (0, (9, 3)))
DASHED = (0, (3, 3))  # reference lines
TIP = "tip:"
MIN_IN_BIN = 5  # predictions: smaller confidence bins are too noisy to show
PX = 1 / 72  # inches: at 72 dots per inch, SVG points are pixels


class Layout(NamedTuple):
    """The space of a chart: its width in px and the number of panels per row."""

    width: float
    columns: int


WIDE, NARROW = Layout(860, 2), Layout(350, 1)


class Chart(NamedTuple):
    """A chart of the report: the name of its files, its description for screen readers, the function that draws it."""

    name: str  # with folders, like digits/figures/claim, that of another report
    description: str
    draw: Callable[[StudyResults, Layout], Figure]

    @property
    def path(self) -> str:
        """The path of its PNG file from the report."""
        return f"{self.name}.png" if "/" in self.name else f"figures/{self.name}.png"


class Drawing(NamedTuple):
    """A chart as two SVG elements, for wide and for narrow screens."""

    chart: Chart
    wide: str
    narrow: str


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's font
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wide: another font in its place finds room
    "font.size": 12,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.05,
    "legend.handletextpad": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def ranking(results: StudyResults, layout: Layout) -> Figure:
    """Draw each variant's runs, mean and interval, with the baselines."""
    variants, metric, scale = results.ranking, results.metric, results.metric.scale

    def text(score: float) -> str:
        return f"{100 * score:.2f} %" if metric.is_accuracy else f"{score:.4g}"

    figure = Figure(figsize=(layout.width * PX, (84 + 34 * len(variants)) * PX), layout="constrained")
    axes = figure.subplots()
    for row, result in enumerate(variants):
        mean, low, high = (scale * value for value in result.score)
        axes.plot([low, high], [row, row], color=style_of(result.index)["color"], linewidth=2.5, alpha=0.55)
        for run in result.runs:
            _point(axes, result, scale * run.score, row, 5.5, f"{run.run}: {text(run.score)}", hollow=True)
        _point(axes, result, mean, row, 10, f"{result.variant}: {text(result.score.mean)} on average")
    _draw_baselines(axes, results)
    axes.set_yticks(range(len(variants)), [result.variant for result in variants])
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(metric.axis("test"))
    return figure


def differences(results: StudyResults, layout: Layout) -> Figure:
    """Draw the lead of each pair's first variant with the simultaneous interval, and zero, that of equal variants."""
    pairs, metric = results.pairs, results.metric
    figure = Figure(figsize=(layout.width * PX, (84 + 34 * len(pairs)) * PX), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1.2, linestyle=DASHED)
    if results.margin is not None:
        axes.axvspan(-metric.scale * results.margin, metric.scale * results.margin, color=RULE, zorder=0)
    for row, pair in enumerate(pairs):
        lead, low, high = (metric.scale * value for value in pair.interval)
        axes.plot([low, high], [row, row], color=style_of(pair.better.index)["color"], linewidth=2.5, alpha=0.55)
        name = f"{pair.better.variant} – {pair.worse.variant}"
        ends = "" if np.isnan(low) else f" ({low:.4g} to {high:.4g})"
        tip = f"{name}: {lead:.4g}{' points' if metric.is_accuracy else ''}{ends}"
        _point(axes, pair.better, lead, row, 9, tip, hollow=not pair.settled)
    space = "\n" if layout.columns == 1 else " "
    axes.set_yticks(range(len(pairs)), [f"{p.better.variant} –{space}{p.worse.variant}" for p in pairs])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("lead, points" if metric.is_accuracy else f"lead in test {metric.name}")
    return figure


def learning_curves(results: StudyResults, layout: Layout) -> Figure:
    """Draw validation score and training loss by epoch: the mean over seeds, and a band from minimum to maximum.

    A metric that is measured only on the test images has no validation score.
    """
    columns = [("train/loss", "training loss", 1.0)]
    if any(len(result.curve(results.metric.validation).epochs) for result in results.ranking):
        columns.insert(0, (results.metric.validation, results.metric.axis("validation"), results.metric.scale))
    figure, panels = panels_of(layout, len(columns), 270)
    for axes, (column, title, scale) in zip(panels, columns, strict=True):
        lowest = []
        for result in results.ranking:
            curve = result.curve(column)
            mean, low, high = scale * curve.mean, scale * curve.low, scale * curve.high
            last = f"{mean[-1]:.4g}" if len(mean) else "nothing"
            draw_curve(axes, curve.epochs, mean, low, high, result.variant, result.index, f"{last} at the end")
            lowest.append(np.nanmin(low[len(low) // 5 :], initial=np.inf))
        if column == "val/top1" and np.isfinite(min(lowest)):
            axes.set_ylim(bottom=max(0, min(lowest) - 5))  # the first epochs would flatten the rest
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    put_legend(figure, panels[0], layout)
    return figure


def calibration(results: StudyResults, layout: Layout) -> Figure:
    """Draw accuracy against confidence, and the distribution of confidence, over all seeds."""
    figure, panels = panels_of(layout, 2, 270)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    panels[0].plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=DASHED)
    for result in results.ranking:
        bins, style = result.reliability, style_of(result.index)
        shown = bins.images >= MIN_IN_BIN
        confidence, accuracy = 100 * bins.confidence[shown], 100 * bins.accuracy[shown]
        for x, y, n in zip(confidence, accuracy, bins.images[shown], strict=True):
            tip = f"{result.variant}: {y:.0f} % of {n:,} predictions with about {x:.0f} % confidence are correct"
            _point(panels[0], result, x, y, 5.5, tip)
        panels[0].plot(confidence, accuracy, linewidth=1.6, label=result.variant, **style)
        share = 100 * bins.images / max(1, bins.images.sum())
        panels[1].stairs(share, 100 * edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.8)
    panels[0].set_title("accuracy at this confidence, %")
    panels[1].set_title("predictions at this confidence, %")
    for axes in panels:
        axes.set_xlabel("confidence, %")
        axes.set_xlim(0, 102)
    put_legend(figure, panels[0], layout)
    return figure


def score_against_cost(results: StudyResults, layout: Layout) -> Figure:
    """Draw the mean test score, with its interval, against each cost, and the Pareto front."""
    quantities: tuple[tuple[str, Callable[[VariantResult, Cost], float], bool], ...] = (  # the last: more is better
        ("parameters", lambda result, cost: cost.parameters, False),
        ("FLOPs per image", lambda result, cost: cost.flops, False),
        ("training time, minutes", lambda result, cost: result.mean("seconds") / 60, False),
        ("training, images/s", lambda result, cost: cost.train_images_per_second, True),
        ("inference, images/s", lambda result, cost: cost.inference_images_per_second, True),
        ("training memory, bytes", lambda result, cost: cost.train_peak_bytes, False),
    )
    metric, columns = results.metric, layout.columns + 1
    figure, panels = panels_of(Layout(layout.width, columns), len(quantities), 215, share_y=True)
    known = [(result, results.costs[result.variant]) for result in results.ranking if result.variant in results.costs]
    for axes, (title, quantity, more) in zip(panels, quantities, strict=True):
        values = [quantity(result, cost) for result, cost in known]
        scores = [metric.scale * result.score.mean for result, _ in known]
        front = pareto_front(values, [metric.sign * score for score in scores], more)
        steps = [values[i] for i in front], [scores[i] for i in front]
        axes.plot(*steps, color=MUTED, linewidth=1, linestyle=DASHED)
        for (result, _), value, mean in zip(known, values, scores, strict=True):
            ends = [metric.scale * result.score.low, metric.scale * result.score.high]
            axes.plot([value] * 2, ends, color=style_of(result.index)["color"], linewidth=2, alpha=0.55)
            shown = f"{mean:.2f} %" if metric.is_accuracy else f"{mean:.4g}"
            tip = f"{result.variant}: {shown} at {tick(float(f'{value:.3g}'))} {title}"
            _point(axes, result, value, mean, 9, tip, label=result.variant)
        if values and max(values) > 8 * min(values):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_xlim(0, 1.15 * max(values, default=1))
            axes.xaxis.set_major_locator(MaxNLocator(layout.columns + 2, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_title(title, fontsize=11)
    for axes in panels[::columns]:
        axes.set_ylabel(metric.axis("").strip())
    put_legend(figure, panels[0], layout)
    return figure


def robustness_curves(table: pd.DataFrame, measures: dict[str, str], variants: Sequence[str], layout: Layout) -> Figure:
    """Draw accuracy against strength for each corruption: the mean over seeds, and a band from minimum to maximum.

    The first point of each curve is accuracy on clean images.

    Args:
        table: Rows of `robustness.csv`.
        measures: What is varied, by corruption.
        variants: All variants of the study; their order decides the colors.
    """
    columns = min(2 * layout.columns - 1, len(measures))
    figure, panels = panels_of(Layout(layout.width, columns), len(measures), 210, share_y=True)
    for axes, (name, measure) in zip(panels, measures.items(), strict=True):
        strengths = strengths_of(table, name)
        for variant, runs in table.groupby("variant", sort=False):
            clean = runs[runs["corruption"] == CLEAN]["top1"]
            corrupted = runs[runs["corruption"] == name].groupby("strength")["top1"]
            mean, low, high = (
                100 * np.array([clean.agg(f), *corrupted.agg(f).loc[strengths]]) for f in ("mean", "min", "max")
            )
            label = str(variant)
            draw_curve(axes, np.arange(len(mean)), mean, low, high, label, list(variants).index(label))
        axes.set_xticks(range(len(strengths) + 1), ["none", *(f"{s:.2g}" for s in strengths)])
        axes.set_title(name)
        axes.set_xlabel(measure)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[::columns]:
        axes.set_ylabel("accuracy, %")
    put_legend(figure, panels[0], layout)
    return figure


def draw_claim(claim: Claim, results: StudyResults, layout: Layout) -> Figure:
    """Draw a claim's published figures next to the means and intervals of the runs, over the claim's axis."""
    by_name = {result.variant: result for result in results.ranking}
    by_place = list(results.study.variants)
    curves = claim.curves or {"": dict(enumerate(by_place))}
    figure, panels = panels_of(layout, 2 if claim.published else 1, 250)
    *published, ours = panels
    scale = results.metric.scale
    for index, (name, places) in enumerate(curves.items()):
        line = style_of(index) | ({} if claim.curves else {"linestyle": "none"})
        places = dict(sorted(places.items()))
        for axes in published:
            printed = [(x, claim.published[variant]) for x, variant in places.items() if variant in claim.published]
            axes.plot(*zip(*printed, strict=True), **line, label=name)
        shown = [(x, by_name[variant]) for x, variant in places.items() if variant in by_name]
        ours.plot([x for x, _ in shown], [scale * result.score.mean for _, result in shown], **line, label=name)
        for x, result in shown:
            mean, low, high = (scale * value for value in result.score)
            ours.plot([x, x], [low, high], color=line["color"], linewidth=2.5, alpha=0.55)
            ours.plot(x, mean, gid=f"{TIP}{result.variant}: {mean:.4g}", **(line | {"linestyle": "none"}))
    for axes, title in zip([*published, ours], [*(["as published"] if published else []), "here"], strict=True):
        axes.set_title(title)
        axes.set_xlabel(claim.axis)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        ticks = sorted({x for places in curves.values() for x in places})
        names = [f"{x:g}" for x in ticks] if claim.curves else [textwrap.fill(each, 14) for each in by_place]
        axes.set_xticks(ticks, names)
        axes.margins(x=0.15)
    ours.set_ylabel(results.metric.axis("test"))
    if len(curves) > 1:
        put_legend(figure, ours, layout)
    return figure


def against_cost(metric: Metric) -> str:
    """Return the name of the chart of scores against costs; a metric with a split is named like train/rank."""
    return f"{metric.label}_against_cost".replace("/", "_")


def charts_for(metric: Metric) -> list[Chart]:
    """Return the charts of a report."""
    label = metric.label
    charts = [
        Chart("ranking", f"Test {label} of every run, with mean and 95 % interval per variant.", ranking),
        Chart("differences", f"Lead in test {label} of every pair of variants, with its 95 % interval.", differences),
        Chart("learning_curves", f"Validation {label} and training loss by epoch for each variant.", learning_curves),
        Chart(
            against_cost(metric),
            f"Mean test {label} against six costs for each variant, with the Pareto front.",
            score_against_cost,
        ),
    ]
    if metric.one_class:
        charts.append(Chart("calibration", "Accuracy against confidence for each variant.", calibration))
    return charts


def strengths_of(table: pd.DataFrame, corruption: str) -> list[float]:
    """Return a corruption's strengths, the mildest first, from rows of `robustness.csv`."""
    return list(dict.fromkeys(table[table["corruption"] == corruption]["strength"]))


def pareto_front(costs: Sequence[float], scores: Sequence[float], more: bool) -> list[int]:
    """Return, by cost, the indices of the points that no other beats in cost or score without losing in the other.

    Args:
        more: The "cost" is a speed: more is better.
    """
    sign = -1 if more else 1
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (sign * costs[i], -scores[i])):
        if not front or scores[i] > scores[front[-1]]:
            front.append(i)
    return front


def draw(chart: Chart, results: Any, folder: Path) -> Drawing:
    """Write a chart into a folder as PNG and PDF, on white, and return it as SVG."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": chart.name, "pdf.fonttype": 42}):  # TrueType: text stays text
        wide, narrow = chart.draw(results, WIDE), chart.draw(results, NARROW)
        drawing = Drawing(chart, _svg(wide), _svg(narrow))
        wide.set_layout_engine("none")  # its layout is settled, and computing it is most of the work
        wide.savefig(folder / f"{chart.name}.png", dpi=144, facecolor="white")
        wide.savefig(folder / f"{chart.name}.pdf", facecolor="white", metadata={"CreationDate": None})
    return drawing


def _svg(figure: Figure) -> str:
    """Return a figure as an SVG element whose colors are the style sheet's variables."""
    out = io.StringIO()
    # Several figures share a page, so their ids must differ.
    with matplotlib.rc_context({"svg.hashsalt": f"{matplotlib.rcParams['svg.hashsalt']}-{figure.get_figwidth():.2f}"}):
        figure.savefig(out, format="svg", dpi=72, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{TIP}([^"]*)"([^>]*)>', r"<g\2><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and their names repeat
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    variables = {INK: "ink", MUTED: "muted", RULE: "rule"} | {value: f"v{i}" for i, value in enumerate(COLORS)}
    for value, variable in variables.items():
        svg = svg.replace(value, f"var(--{variable})")
    return svg


def panels_of(layout: Layout, count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure with `count` panels, in rows as wide as the layout; a single panel takes a whole row."""
    columns = min(count, layout.columns)
    rows = -(-count // columns)
    figure = Figure(figsize=(layout.width * PX, (rows * height + 30) * PX), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]


def style_of(index: int) -> dict[str, Any]:
    which = index % len(COLORS)
    return {"color": COLORS[which], "marker": MARKERS[which], "linestyle": DASHES[which], "markersize": 5.5}


def _point(
    axes: Axes, result: VariantResult, x: float, y: float, size: float, tip: str, hollow: bool = False, label: str = ""
) -> None:
    style = style_of(result.index) | {"linestyle": "none", "markersize": size}
    axes.plot(x, y, gid=TIP + tip, label=label, fillstyle="none" if hollow else "full", **style)


def draw_curve(
    axes: Axes, x: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, variant: str, index: int,
    tip: str = "",
) -> None:  # fmt: skip
    """Draw a line with a band; `tip` describes it under the pointer."""
    style = style_of(index)
    gid = f"{TIP}{variant}: {tip}" if tip else None
    axes.plot(x, mean, linewidth=1.6, markevery=max(1, len(x) // 8), label=variant, gid=gid, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def _draw_baselines(axes: Axes, results: StudyResults) -> None:
    """Draw the baselines that lie near enough not to squeeze the variants together."""
    low, high = axes.get_xlim()
    room = max(high - low, 1.0)
    lines = results.baselines
    for name, value in (("k-NN", 100 * lines.knn), ("majority", 100 * lines.majority)) if lines else ():
        if low - room < value < high + room:
            axes.axvline(value, color=MUTED, linewidth=1.2, linestyle=DASHED)
            axes.annotate(
                name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=11, color=MUTED,
            )  # fmt: skip


def put_legend(figure: Figure, axes: Axes, layout: Layout) -> None:
    """Put the legend above the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(len(labels), int(layout.width / (9 * longest + 50))))
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.6, columnspacing=1.6)
