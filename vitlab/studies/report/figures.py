"""The charts of a report: drawn once, written as SVG that follows the page's colors, and as PNG and PDF.

What is under the pointer names itself: an artist's `gid` that begins with TIP becomes the title of its SVG element.

A variant keeps its color (Okabe and Ito 2008), marker and dash everywhere, so that charts can be read by the
color-blind and in black and white.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from vitlab.evaluation.cost import Cost
from vitlab.evaluation.predictions import CALIBRATION_BINS
from vitlab.studies.format import tick
from vitlab.studies.results import StudyResults, VariantResult

# Stand-ins for the page's colors: the SVG gets a variable of the style sheet in their place.
INK, MUTED, RULE = "#1c1d20", "#5c6066", "#d9dbdf"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (1, 1)), (0, (9, 3)))
TIP = "tip:"
LEAST_IN_BIN = 5  # answers of a confidence: fewer say nothing of how often such answers are right
PX = 1 / 72  # inches: at 72 dots per inch SVG points are pixels


class Layout(NamedTuple):
    """The room a chart has: its width in px and how many panels stand beside each other."""

    width: float
    columns: int


WIDE, NARROW = Layout(860, 2), Layout(350, 1)
Chart = Callable[[StudyResults, Layout], Figure]

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


def color(index: int) -> str:
    """Return the color of a study's variant."""
    return COLORS[index % len(COLORS)]


def ranking(results: StudyResults, layout: Layout) -> Figure:
    """Draw each variant's runs, mean and interval, with the lines to beat."""
    variants = results.ranking
    figure = _figure(layout.width, 84 + 34 * len(variants))
    axes = figure.subplots()
    for row, result in enumerate(variants):
        style, accuracy = _style(result), result.accuracy
        axes.plot(
            [100 * accuracy.low, 100 * accuracy.high], [row, row], color=style["color"], linewidth=2.5, alpha=0.55
        )
        for run in result.runs:
            tip = f"{TIP}{run.run}: {100 * run.top1:.2f} %"
            axes.plot(100 * run.top1, row, linestyle="none", **_marker(style, 5.5), markerfacecolor="none", gid=tip)
        tip = f"{TIP}{result.variant}: {100 * accuracy.mean:.2f} % on average"
        axes.plot(100 * accuracy.mean, row, linestyle="none", **_marker(style, 10), gid=tip)
    _reference(axes, results)
    axes.set_yticks(range(len(variants)), [result.variant for result in variants])
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("test accuracy, %")
    return figure


def learning_curves(results: StudyResults, layout: Layout) -> Figure:
    """Draw validation accuracy and training loss by epoch: the mean over seeds, the band from lowest to highest."""
    figure, panels = _panels(layout, 2, 270)
    for axes, metric, title, scale in (
        (panels[0], "val/top1", "validation accuracy, %", 100),
        (panels[1], "train/loss", "training loss", 1),
    ):
        lowest = []
        for result in results.ranking:
            style, curve = _style(result), result.curve(metric)
            every = max(1, len(curve.epochs) // 8)
            last = f"{scale * curve.mean[-1]:.4g}" if len(curve.mean) else "nothing"
            tip = f"{TIP}{result.variant}: {last} at the end"
            axes.plot(
                curve.epochs, scale * curve.mean, linewidth=1.6, markevery=every, label=result.variant, gid=tip, **style
            )
            axes.fill_between(
                curve.epochs, scale * curve.low, scale * curve.high, color=style["color"], alpha=0.18, linewidth=0
            )
            lowest.append(scale * np.nanmin(curve.low[len(curve.low) // 5 :], initial=np.inf))
        if metric == "val/top1" and np.isfinite(min(lowest)):
            axes.set_ylim(bottom=max(0, min(lowest) - 5))  # the first epochs would squeeze the rest into a line
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend(figure, panels[0], layout)
    return figure


def calibration(results: StudyResults, layout: Layout) -> Figure:
    """Draw how often answers of some confidence are right, and how confidence is spread, over all seeds."""
    figure, panels = _panels(layout, 2, 270)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    panels[0].plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
    for result in results.ranking:
        style, bins = _style(result), result.reliability
        shown = bins.images >= LEAST_IN_BIN
        for x, y, n in zip(100 * bins.confidence[shown], 100 * bins.accuracy[shown], bins.images[shown], strict=True):
            tip = f"{TIP}{result.variant}: of {n:,} answers with about {x:.0f} % confidence {y:.0f} % are right"
            panels[0].plot(x, y, **_marker(style, 5.5), gid=tip)
        panels[0].plot(
            100 * bins.confidence[shown], 100 * bins.accuracy[shown], linewidth=1.6, label=result.variant, **style
        )
        share = 100 * bins.images / max(1, bins.images.sum())
        panels[1].stairs(share, 100 * edges, color=style["color"], linestyle=style["linestyle"], linewidth=1.8)
    panels[0].set_title("right among answers this sure, %")
    panels[1].set_title("answers this sure, %")
    for axes in panels:
        axes.set_xlabel("confidence, %")
        axes.set_xlim(0, 102)
    legend(figure, panels[0], layout)
    return figure


def accuracy_against_cost(results: StudyResults, layout: Layout) -> Figure:
    """Draw mean test accuracy, with its interval, against each cost, and the variants that none beats in both."""
    quantities: tuple[tuple[str, Callable[[VariantResult, Cost], float], bool], ...] = (  # the last: more is better
        ("parameters", lambda result, cost: cost.parameters, False),
        ("FLOPs per image", lambda result, cost: cost.flops, False),
        ("training time, minutes", lambda result, cost: result.seconds / 60, False),
        ("training, images/s", lambda result, cost: cost.train_images_per_second, True),
        ("inference, images/s", lambda result, cost: cost.inference_images_per_second, True),
        ("training memory, bytes", lambda result, cost: cost.train_peak_bytes, False),
    )
    columns = layout.columns + 1
    figure, panels = _panels(Layout(layout.width, columns), len(quantities), 215, share_y=True)
    known = [(result, results.costs[result.variant]) for result in results.ranking if result.variant in results.costs]
    for axes, (title, quantity, more) in zip(panels, quantities, strict=True):
        values = [quantity(result, cost) for result, cost in known]
        accuracies = [100 * result.accuracy.mean for result, _ in known]
        front = pareto_front(values, accuracies, more)
        axes.plot(
            [values[i] for i in front], [accuracies[i] for i in front], color=MUTED, linewidth=1, linestyle=(0, (3, 3))
        )
        for (result, _), value in zip(known, values, strict=True):
            style, accuracy = _style(result), result.accuracy
            ends = [100 * accuracy.low, 100 * accuracy.high]
            axes.plot([value] * 2, ends, color=style["color"], linewidth=2, alpha=0.55)
            tip = f"{TIP}{result.variant}: {100 * accuracy.mean:.2f} % at {tick(float(f'{value:.3g}'))} {title}"
            axes.plot(value, 100 * accuracy.mean, linestyle="none", label=result.variant, **_marker(style, 9), gid=tip)
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
        axes.set_ylabel("accuracy, %")
    legend(figure, panels[0], layout)
    return figure


def pareto_front(costs: Sequence[float], accuracies: Sequence[float], more: bool) -> list[int]:
    """Return, by cost, the indices of the points that no other beats in cost or accuracy without losing in the other.

    Args:
        more: The "cost" is a speed: more is better.
    """
    sign = -1 if more else 1
    front: list[int] = []
    for i in sorted(range(len(costs)), key=lambda i: (sign * costs[i], -accuracies[i])):
        if not front or accuracies[i] > accuracies[front[-1]]:
            front.append(i)
    return front


def to_svg(chart: Chart, results: StudyResults, layout: Layout) -> str:
    """Draw a chart as an SVG element whose colors are the style sheet's variables."""
    name = f"{chart.__name__}-{layout.columns}"  # several charts share a page, so their ids must differ
    out = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        chart(results, layout).savefig(out, format="svg", dpi=72, metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(rf'<g id="{TIP}([^"]*)"([^>]*)>', r"<g\2><title>\1</title>", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and their names repeat
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("'DejaVu Sans'", "system-ui, sans-serif")
    for value, variable in [
        (INK, "ink"),
        (MUTED, "muted"),
        (RULE, "rule"),
        *((c, f"v{i}") for i, c in enumerate(COLORS)),
    ]:
        svg = svg.replace(value, f"var(--{variable})")
    return svg


def write_files(chart: Chart, results: StudyResults, folder: Path) -> None:
    """Draw a chart into a PNG and a PDF, on white."""
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):  # TrueType: text stays text
        figure = chart(results, WIDE)
        figure.savefig(folder / f"{chart.__name__}.png", dpi=144, facecolor="white")
        figure.set_layout_engine("none")  # it has its layout, and finding it is half of the work
        figure.savefig(folder / f"{chart.__name__}.pdf", facecolor="white", metadata={"CreationDate": None})


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width * PX, height * PX), layout="constrained")


def _panels(layout: Layout, count: int, height: float, share_y: bool = False) -> tuple[Figure, list[Axes]]:
    rows = -(-count // layout.columns)
    figure = _figure(layout.width, rows * height + 30)
    panels = figure.subplots(rows, layout.columns, squeeze=False, sharey=share_y)
    return figure, list(panels.flat)


def _style(result: VariantResult) -> dict[str, Any]:
    which = result.index % len(COLORS)
    return {"color": COLORS[which], "marker": MARKERS[which], "linestyle": DASHES[which], "markersize": 5.5}


def _marker(style: dict[str, Any], size: float) -> dict[str, Any]:
    return {"color": style["color"], "marker": style["marker"], "markersize": size}


def _reference(axes: Axes, results: StudyResults) -> None:
    """Draw the lines to beat, where they are near enough to leave the variants apart."""
    low, high = axes.get_xlim()
    room = max(high - low, 1.0)
    lines = (("k-NN", results.baselines.knn), ("majority", results.baselines.majority))
    for name, value in ((name, 100 * value) for name, value in lines):
        if low - room < value < high + room:
            axes.axvline(value, color=MUTED, linewidth=1.2, linestyle=(0, (3, 3)))
            axes.annotate(
                name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=11, color=MUTED,
            )  # fmt: skip


def legend(figure: Figure, axes: Axes, layout: Layout) -> None:
    """Name the lines of a panel above the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(len(labels), int(layout.width / (9 * longest + 50))))
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.6, columnspacing=1.6)
