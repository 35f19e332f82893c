"""Scaling laws as a picture: points are measured, lines are the formula; see `scaling`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from vitlab.studies.report.figures import COLORS, DASHES, INK, MARKERS, MUTED, PX, STYLE
from vitlab.studies.scaling import Architecture, Factor, Part, Point, Shape, curve_of, seconds_per_multiply_add

WIDTH, HEIGHT = 1060, 720  # px
ARCHITECTURES: tuple[Architecture, ...] = ("ViT", "Swin")
PARTS: tuple[Part, ...] = ("attention", "block")
PANELS: dict[Factor, tuple[str, str]] = {  # title and label
    "side": ("larger images", "tokens of an image, h × w"),
    "window": ("larger windows", "side of a window, M"),
    "width": ("wider layers", "width, C"),
    "depth": ("more layers", "layers"),
    "batch": ("larger batches", "images"),
}
FORMULAS = """Lines are the formulas, each by one constant of its
own: ViT  4hwC² + 2(hw)²C,  Swin  4hwC² + 2M²hwC,
a block 8hwC² more. Points are medians with quartiles."""


def write_figure(points: Sequence[Point], base: Shape, where: str, folder: Path) -> None:
    """Draw scaling.png and scaling.pdf, on white.

    Args:
        base: What a panel's factor is varied from.
        where: What it was measured on.
    """
    with matplotlib.rc_context({**STYLE, "pdf.fonttype": 42}):  # TrueType: text stays text
        figure = draw(points, base, where)
        figure.savefig(folder / "scaling.png", dpi=144, facecolor="white")
        figure.set_layout_engine("none")
        figure.savefig(folder / "scaling.pdf", facecolor="white", metadata={"CreationDate": None})


def draw(points: Sequence[Point], base: Shape, where: str) -> Figure:
    """Draw a panel a factor, and what the lines are in the place of the sixth."""
    factors = [factor for factor in PANELS if any(point.factor == factor for point in points)]
    figure = Figure(figsize=(WIDTH * PX, HEIGHT * PX), layout="constrained")
    *panels, key = figure.subplots(2, 3).flat
    for axes, factor in zip(panels, factors, strict=False):
        _panel(axes, points, factor)
    for axes in panels[len(factors) :]:
        axes.set_axis_off()
    for axes in (panels[0], panels[3]):
        axes.set_ylabel("time of a forward pass")
    _key(key, base, where)
    figure.suptitle(title(points), x=0.012, ha="left", fontsize=15)
    return figure


def title(points: Sequence[Point]) -> str:
    """Say what is seen: how the time of an attention layer grows along the larger half of the images."""
    said = []
    for architecture in ARCHITECTURES:
        curve = curve_of(points, "side", architecture, "attention")
        if len(curve) < 2:
            return "Time of attention layers and of blocks beside their formulas"
        last = curve[-1]
        first = max((p for p in curve if 4 * p.value <= last.value), key=lambda p: p.value, default=curve[0])
        said.append(f"{last.seconds / first.seconds:.2g}")
    return (
        f"{last.value / first.value:.2g} times the tokens: ViT's attention takes {said[0]} times as long, "
        f"Swin's {said[1]} times"
    )


def _panel(axes: Axes, points: Sequence[Point], factor: Factor) -> None:
    for part in PARTS:
        for architecture in ARCHITECTURES:
            curve = curve_of(points, factor, architecture, part)
            style = _style(architecture, part)
            values, seconds = [p.value for p in curve], [p.seconds for p in curve]
            constant = seconds_per_multiply_add(curve)
            line = [constant * p.multiply_adds for p in curve]
            axes.plot(values, line, color=style["color"], linestyle=style["linestyle"], linewidth=1.5)
            errors = [[p.seconds - p.seconds_q1 for p in curve], [p.seconds_q3 - p.seconds for p in curve]]
            axes.errorbar(values, seconds, yerr=errors, **{**style, "linestyle": "none"}, elinewidth=1.2, capsize=2.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_apart(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 60 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _time(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    name, label = PANELS[factor]
    axes.set_title(name)
    axes.set_xlabel(label)
    if factor == "side":
        _powers(axes, points)


def _powers(axes: Axes, points: Sequence[Point]) -> None:
    """Say what the two attention layers come to: the second term of ViT's formula, the whole of Swin's."""
    powers: tuple[tuple[Architecture, str, int, int], ...] = (("ViT", "∝ (hw)²", -12, 4), ("Swin", "∝ hw", 4, -16))
    for architecture, power, right, up in powers:
        curve = curve_of(points, "side", architecture, "attention")
        point = curve[-2] if len(curve) > 1 else curve[-1]
        axes.annotate(
            power, (point.value, point.seconds), xytext=(right, up), textcoords="offset points",
            ha="right" if right < 0 else "left", color=COLORS[ARCHITECTURES.index(architecture)],
        )  # fmt: skip


def _style(architecture: Architecture, part: Part) -> dict[str, Any]:
    """An architecture keeps its color and marker; blocks are filled and solid, attention layers open and dashed."""
    which = ARCHITECTURES.index(architecture)
    return {
        "color": COLORS[which],
        "marker": MARKERS[which],
        "markersize": 6.5,
        "markerfacecolor": COLORS[which] if part == "block" else "white",
        "linestyle": DASHES[0] if part == "block" else DASHES[1],
    }


def _apart(values: Sequence[int]) -> list[int]:
    """Return the values that have room for their numbers on a logarithmic axis, the last among them."""
    kept, room = [values[-1]], (values[-1] / values[0]) ** (1 / 6)
    for value in reversed(values):
        if kept[-1] >= room * value:
            kept.append(value)
    return kept


def _time(seconds: float) -> str:
    """Return a power of ten of seconds, like 10 ms."""
    if seconds >= 1:
        return f"{seconds:g} s"
    return f"{1e3 * seconds:g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:g} µs"


def _key(axes: Axes, base: Shape, where: str) -> None:
    axes.set_axis_off()
    names: dict[tuple[Architecture, Part], str] = {
        ("ViT", "block"): "ViT, a block",
        ("ViT", "attention"): "ViT, its attention layer",
        ("Swin", "block"): "Swin, a block",
        ("Swin", "attention"): "Swin, its attention layer",
    }
    handles = [Line2D([], [], linewidth=1.5, label=name, **_style(*case)) for case, name in names.items()]
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, 1), borderaxespad=0, handlelength=3.4)
    rest = (
        f"Where nothing else is said: {base.side} × {base.side} tokens,\nwindows of {base.window} × {base.window}, "
        f"C = {base.width}, layers: {base.depth}, images: {base.batch}."
    )
    text: dict[str, Any] = {"va": "top", "transform": axes.transAxes, "linespacing": 1.5}
    axes.text(0, 0.60, f"{FORMULAS}\n\n{rest}", fontsize=11, color=INK, **text)
    axes.text(0, 0.14, where, fontsize=10, color=MUTED, **text)
