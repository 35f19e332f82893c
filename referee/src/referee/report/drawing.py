"""Charts: drawn once, written as SVG that follows the page's colors, and as PNG and PDF.

Every mark shows its value as a tooltip: an artist's `gid` that starts with TIP becomes the title of its SVG element.

A variant keeps its color (Okabe and Ito 2008), marker and dash pattern in all charts, so they remain readable for
color-blind readers and in black and white.
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
from matplotlib.ticker import MaxNLocator

# Placeholders for the page's colors: in the SVG, variables of the style sheet replace them.
INK, MUTED, RULE = "#1c1d20", "#5c6066", "#d9dbdf"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1.5)), (0, (1, 1)), (0, (9, 3)))
DASHED = (0, (3, 3))  # reference lines
TIP = "tip:"
PX = 1 / 72  # inches: at 72 dots per inch, SVG points are pixels


class Layout(NamedTuple):
    """The space of a chart: its width in px and the number of panels per row."""

    width: float
    columns: int


WIDE, NARROW = Layout(860, 2), Layout(350, 1)


class Chart(NamedTuple):
    """A chart of a report: the name of its files, its description for screen readers, the function that draws it."""

    name: str  # with folders, like digits/figures/claim, that of another report
    description: str
    draw: Callable[[Any, Layout], Figure]

    @property
    def path(self) -> str:
        """The path of its PNG file from the report."""
        return f"{self.name}.png" if "/" in self.name else f"figures/{self.name}.png"


class Drawing(NamedTuple):
    """A chart as two SVG elements, for wide and for narrow screens; without the second, the first is for all."""

    chart: Chart
    wide: str
    narrow: str


STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: sharp, selectable, in the page's font
    "font.family": "DejaVu Sans",  # comes with matplotlib, and is wide: another font in its place finds room
    "figure.dpi": 72,  # of the SVG on a page, for which texts are measured
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.05,
    "legend.handletextpad": 0.6,
    "grid.linewidth": 0.8,
    "grid.color": RULE,
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
    **dict.fromkeys(("axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor", "text.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    **dict.fromkeys(("axes.grid", "axes.axisbelow"), True),
}


def draw(chart: Chart, results: Any, folder: Path) -> Drawing:
    """Write a chart into a folder as PNG, PDF and SVG, on white, and return it as SVG in the colors of the page."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": chart.name, "pdf.fonttype": 42}):  # TrueType: text stays text
        wide, narrow = chart.draw(results, WIDE), chart.draw(results, NARROW)
        for figure in (wide, narrow):
            figure.draw_without_rendering()
            figure.set_layout_engine(None)  # its layout is settled; each file would compute it anew
        drawing = Drawing(chart, _svg(wide), _svg(narrow))
        wide.savefig(folder / f"{chart.name}.png", dpi=144, facecolor="white")
        wide.savefig(folder / f"{chart.name}.pdf", facecolor="white", metadata={"CreationDate": None})
        wide.savefig(folder / f"{chart.name}.svg", facecolor="white", metadata={"Date": None})
    return drawing


def _svg(figure: Figure) -> str:
    """Return a figure as an SVG element whose colors are the style sheet's variables."""
    out = io.StringIO()
    # A page has each chart wide and narrow, so the ids of both must differ; the salt has the chart's name already.
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


def rows_of(layout: Layout, names: Sequence[str], label: str) -> tuple[Figure, Axes]:
    """Return a figure with a row for each name, the first on top, and a label below its axis."""
    figure, (axes,) = panels_of(layout, 1, 54 + 34 * len(names))
    axes.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.4, -0.6), xlabel=label)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    room = layout.width - 8 * max(map(len, "\n".join(names).split("\n")))  # pixels that the longest name leaves
    axes.xaxis.set_major_locator(MaxNLocator(max(1, min(5, int(room / 40)))))
    return figure, axes


def style_of(index: int) -> dict[str, Any]:
    """Return the color, marker and dashes of a variant."""
    which = index % len(COLORS)
    return {"color": COLORS[which], "marker": MARKERS[which], "linestyle": DASHES[which], "markersize": 5.5}


def point(
    axes: Axes, index: int, x: float, y: float, size: float, tip: str, hollow: bool = False, label: str = ""
) -> None:
    """Draw a variant's marker with a tooltip; a hollow one is of less weight."""
    style = style_of(index) | {"linestyle": "none", "markersize": size}
    axes.plot(x, y, gid=TIP + tip, label=label, fillstyle="none" if hollow else "full", **style)


def bar(axes: Axes, index: int, x: Sequence[Any], y: Sequence[float]) -> None:
    """Draw the interval of a variant between two points."""
    axes.plot(x, y, color=style_of(index)["color"], linewidth=2.5, alpha=0.55)


def draw_curve(
    axes: Axes, x: np.ndarray, mean: np.ndarray, low: np.ndarray, high: np.ndarray, variant: str, index: int,
    tip: str = "",
) -> None:  # fmt: skip
    """Draw a line with a band; `tip` describes it under the pointer."""
    style = style_of(index)
    gid = f"{TIP}{variant}: {tip}" if tip else None
    axes.plot(x, mean, linewidth=1.6, markevery=max(1, len(x) // 8), label=variant, gid=gid, **style)
    axes.fill_between(x, low, high, color=style["color"], alpha=0.18, linewidth=0)


def brief(name: str, layout: Layout) -> str:
    """Return a name as a chart has room for it; tables and tooltips have the whole one."""
    half = 11 if layout.columns == 1 else 18
    return name if len(name) <= 36 else f"{name[:half]}…{name[-half:]}"


def put_legend(figure: Figure, axes: Axes, layout: Layout) -> None:
    """Put the legend above the figure, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [brief(label, layout) for label in labels]
    longest = max((len(label) for label in labels), default=1)
    columns = max(1, min(len(labels), int(layout.width / (9 * longest + 50))))
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns, handlelength=2.6, columnspacing=1.6)
