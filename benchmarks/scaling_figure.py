"""The figure of `benchmarks.scaling`: points are measured, lines are the formulas."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, NullFormatter, NullLocator
from referee.report.drawing import COLORS, DASHES, INK, MARKERS, MUTED, STYLE

from benchmarks.scaling import Architecture, Factor, Part, Point, Shape, curve_of, seconds_per_multiply_add

LINES: dict[tuple[Architecture, Part], str] = {
    ("ViT", "block"): "ViT, a block",
    ("ViT", "attention"): "ViT, its attention layer",
    ("Swin", "block"): "Swin, a block",
    ("Swin", "attention"): "Swin, its attention layer",
}
PANELS: dict[Factor, tuple[str, str]] = {  # title and label
    "side": ("larger images", "tokens of an image, h × w"),
    "window": ("larger windows", "side of a window, M"),
    "width": ("wider layers", "width, C"),
    "depth": ("more layers", "layers"),
    "batch": ("larger batches", "images"),
}
FORMULAS = """Lines are the formulas, each scaled by one constant:
ViT  4hwC² + 2(hw)²C,  Swin  4hwC² + 2M²hwC,
a block 8hwC² more. Points are medians with quartiles."""


def write_figure(points: Sequence[Point], base: Shape, measured_on: str, folder: Path) -> None:
    """Draw scaling.png and scaling.pdf; each panel varies one factor of `base`."""
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):  # TrueType: text stays text
        figure = draw(points, base, measured_on)
        figure.savefig(folder / "scaling.png", dpi=144, facecolor="white")
        figure.set_layout_engine("none")
        figure.savefig(folder / "scaling.pdf", facecolor="white", metadata={"CreationDate": None})


def draw(points: Sequence[Point], base: Shape, measured_on: str) -> Figure:
    """Draw one panel per factor, and the key in place of a sixth."""
    figure = Figure(figsize=(14.7, 10), layout="constrained")
    *panels, key = figure.subplots(2, 3).flat
    for axes, factor in zip(panels, PANELS, strict=True):
        _panel(axes, points, factor)
    for axes in (panels[0], panels[3]):
        axes.set_ylabel("time of a forward pass")
    key.set_axis_off()
    handles = [Line2D([], [], linewidth=1.5, label=name, **_style(*line)) for line, name in LINES.items()]
    key.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=3.4)
    rest = (
        f"Unless varied: {base.side} × {base.side} tokens,\nwindows of {base.window} × {base.window}, "
        f"C = {base.width}, layers: {base.depth}, images: {base.batch}."
    )
    text: dict[str, Any] = {"va": "top", "transform": key.transAxes, "linespacing": 1.5, "wrap": True}
    key.text(0, 0.60, f"{FORMULAS}\n\n{rest}", fontsize=11, color=INK, **text)
    key.text(0, 0.14, measured_on, fontsize=10, color=MUTED, **text)
    figure.suptitle(title(points), x=0.012, ha="left", fontsize=15)
    return figure


def title(points: Sequence[Point]) -> str:
    """Return how the time of an attention layer grows from a quarter of the largest image to the whole of it."""
    growth = []
    for architecture in ("ViT", "Swin"):
        *smaller, last = curve_of(points, "side", architecture, "attention")
        first = max((p for p in smaller if 4 * p.value <= last.value), key=lambda p: p.value, default=smaller[0])
        growth.append(f"{last.seconds / first.seconds:.2g}")
    tokens = f"{last.value / first.value:.2g}"
    return f"{tokens} times the tokens: ViT's attention takes {growth[0]} times as long, Swin's {growth[1]} times"


def _panel(axes: Axes, points: Sequence[Point], factor: Factor) -> None:
    for architecture, part in LINES:
        curve = curve_of(points, factor, architecture, part)
        style = _style(architecture, part)
        values, seconds = [p.value for p in curve], [p.seconds for p in curve]
        line = [seconds_per_multiply_add(curve) * p.multiply_adds for p in curve]
        axes.plot(values, line, color=style["color"], linestyle=style["linestyle"], linewidth=1.5)
        errors = [[p.seconds - p.seconds_q1 for p in curve], [p.seconds_q3 - p.seconds for p in curve]]
        axes.errorbar(values, seconds, yerr=errors, **{**style, "linestyle": "none"}, elinewidth=1.2, capsize=2.5)
    axes.set(xscale="log", yscale="log", title=PANELS[factor][0], xlabel=PANELS[factor][1])
    axes.xaxis.set_major_locator(FixedLocator(values[-1::-2]))  # every second one has room
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.0f}")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,)))
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _style(architecture: Architecture, part: Part) -> dict[str, Any]:
    """An architecture keeps its color and marker; blocks are filled and solid, attention layers open and dashed."""
    which = ("ViT", "Swin").index(architecture)
    return {
        "color": COLORS[which],
        "marker": MARKERS[which],
        "markersize": 6.5,
        "markerfacecolor": COLORS[which] if part == "block" else "white",
        "linestyle": DASHES[0] if part == "block" else DASHES[1],
    }
