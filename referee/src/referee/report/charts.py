"""The charts of a verdict: the runs of each variant, and the lead of each pair."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from referee.report.drawing import DASHED, MUTED, PX, RULE, Chart, Layout, brief, point, style_of
from referee.verdict import Verdict


def ranking(verdict: Verdict, layout: Layout, lines: Mapping[str, float] | None = None) -> Figure:
    """Draw each variant's runs, mean and interval; `lines` are scores to compare them with, by name."""
    variants, metric = verdict.ranking, verdict.metric

    def text(score: float) -> str:
        return f"{100 * score:.2f} %" if metric.is_fraction else f"{score:.4g}"

    figure = Figure(figsize=(layout.width * PX, (84 + 34 * len(variants)) * PX), layout="constrained")
    axes = figure.subplots()
    for row, variant in enumerate(variants):
        mean, low, high = (metric.scale * value for value in variant.score)
        axes.plot([low, high], [row, row], color=style_of(variant.index)["color"], linewidth=2.5, alpha=0.55)
        for run, score in zip(variant.runs, variant.scores, strict=True):
            point(axes, variant.index, metric.scale * score, row, 5.5, f"{run}: {text(score)}", hollow=True)
        point(axes, variant.index, mean, row, 10, f"{variant.name}: {text(variant.score.mean)} on average")
    _draw_lines(axes, {name: metric.scale * value for name, value in (lines or {}).items()})
    axes.set_yticks(range(len(variants)), [brief(variant.name, layout) for variant in variants])
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(metric.axis())
    return figure


def differences(verdict: Verdict, layout: Layout, score: str = "") -> Figure:
    """Draw each pair's lead, its simultaneous interval, and zero, that of equal variants; `score` names the axis."""
    pairs, metric = verdict.pairs, verdict.metric
    figure = Figure(figsize=(layout.width * PX, (84 + 34 * len(pairs)) * PX), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color=MUTED, linewidth=1.2, linestyle=DASHED)
    if verdict.margin is not None:
        axes.axvspan(-metric.scale * verdict.margin, metric.scale * verdict.margin, color=RULE, zorder=0)
    for row, pair in enumerate(pairs):
        lead, low, high = (metric.scale * value for value in pair.interval)
        axes.plot([low, high], [row, row], color=style_of(pair.better.index)["color"], linewidth=2.5, alpha=0.55)
        ends = "" if np.isnan(low) else f" ({low:.4g} to {high:.4g})"
        tip = f"{pair.name}: {lead:.4g}{' points' if metric.is_fraction else ''}{ends}"
        point(axes, pair.better.index, lead, row, 9, tip, hollow=pair.verdict != "better")
    names = [(brief(pair.better.name, layout), brief(pair.worse.name, layout)) for pair in pairs]
    space = "\n" if layout.columns == 1 or max(len(a + b) for a, b in names) > 60 else " "
    axes.set_yticks(range(len(pairs)), [f"{a} –{space}{b}" for a, b in names])
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("lead, points" if metric.is_fraction else f"lead in {score or metric.name}")
    return figure


def _draw_lines(axes: Axes, lines: Mapping[str, float]) -> None:
    """Draw the lines that lie near enough not to squeeze the variants together."""
    low, high = axes.get_xlim()
    room = max(high - low, 1.0)
    for name, value in lines.items():
        if low - room < value < high + room:
            axes.axvline(value, color=MUTED, linewidth=1.2, linestyle=DASHED)
            axes.annotate(
                name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=11, color=MUTED,
            )  # fmt: skip


RANKING = Chart("ranking", "Score of every run, with mean and 95 % interval per variant.", ranking)
DIFFERENCES = Chart("differences", "Lead of every pair of variants, with its 95 % interval.", differences)
