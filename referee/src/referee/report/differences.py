"""The section on the differences between variants: every pair, how to read it, and the charts."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure as Drawn

from referee.formats import NONE, SPACE, counted, listed, percent, shown_p
from referee.report.document import Cell, Figure, Note, Part, Row, Table
from referee.report.drawing import DASHED, MUTED, RULE, Chart, Drawing, Layout, bar, brief, point, rows_of
from referee.statistics.contrast import LEVEL
from referee.verdict import Pair, Verdict

INTERVAL = "95 % interval"
OF_FAILURES = 17  # false claims in % where one variant fails in 1 of 10, with 10,000 images
RULES = {
    "pooled": "Student's t on seeds",
    "exact": "all regroupings of the runs",
    "paired": "Student's t on the differences by seed",
}


def differences_section(verdict: Verdict, drawing: Drawing | None) -> list[Part]:
    """Return every pair of variants, how to read it, and what no test sees; too many have no `drawing`."""
    if not verdict.pairs:
        return []
    metric, digits, margin, rows = verdict.metric, verdict.digits, "", []
    for pair in verdict.pairs:
        lead, conclusion = Cell(metric.text(pair.lead, digits), bold=True), conclusion_on(pair, verdict)
        rows.append(Row(pair.name, [lead, pair.bracket(digits) or NONE, conclusion, shown_p(pair.p)]))
    tested = sum(pair.difference is not None for pair in verdict.pairs)
    pairs = counted(tested, "pair")
    columns = ["Pair", "Lead", INTERVAL, "Conclusion", "p" if tested < 2 else f"p, adjusted\nfor {pairs}"]
    notes = [] if metric.mode == "max" else ["A lead is by how much the first variant is lower."]
    if tested:
        held = "all intervals of the table hold at once" + (", at every look" if verdict.design.looks else "")
        adjusted = ""
        if tested > 1:
            held += "; beside *better* an interval begins at 0 or above, beside *undecided* it holds 0"
            adjusted = f", adjusted for {pairs} by a closed test from the top"
        better = "p is below 0.05"
        if verdict.level < LEVEL:
            better = f"p is at most {shown_p(verdict.level)}, at which all looks together call equal variants "
            better += f"different in 5{SPACE}% of studies; the p of the look that settled it is given"
        notes += [
            f"*95 % interval*: of the true lead; {held}.",
            f"*p*: the smallest level at which the pair is called better{adjusted}; chance is {chance(verdict)}.",
            f"*Better*: {better}.",
            "*Undecided* does not mean equal: the interval shows which differences remain possible.",
        ]
    else:
        notes.append("A single seed cannot show what is chance.")
    if verdict.margin is not None:
        size, margin = metric.size(verdict.margin), " Shaded: the margin."
        if tested:
            notes.append(f"*Equal to within {size}*: two one-sided tests exclude a difference of {size} or more.")
    caption = (
        "By how much the first variant of each pair leads. Filled marker: better; open marker: not. Bar: 95 % "
        f"interval; all of them hold at once.{margin}"
    )
    table = Table("Differences between variants", columns, rows, left=[INTERVAL, "Conclusion"])
    parts: list[Part] = [*([Figure(drawing, caption)] if drawing else []), table, Note(" ".join(notes))]
    if tested and not verdict.of_models:
        parts.append(Note(" ".join(limits(verdict))))
    return parts


def conclusion_on(pair: Pair, verdict: Verdict) -> str:
    """Return the conclusion on a pair with its numbers of seeds, like "better (7 seeds each)"."""
    a, b = len(pair.better.runs), len(pair.worse.runs)
    seeds = f"{counted(a, 'seed')} each" if a == b else f"{a} and {counted(b, 'seed')}"
    if pair.difference is None:
        return f"not tested ({seeds})"
    if pair.equal and verdict.margin is not None:
        return f"equal to within {verdict.metric.size(verdict.margin)} ({seeds})"
    return f"{'better' if pair.settled else 'undecided'} ({seeds})"


def chance(verdict: Verdict) -> str:
    """Return what chance is; over seeds, also the rule that tells how much of it there is."""
    unit, rule = verdict.outcomes.unit, RULES[verdict.design.test]
    if verdict.of_models:
        return f"other test {unit}s"
    if verdict.items == 1:
        return f"other seeds, by {rule}"
    return f"other seeds and other test {unit}s, by {rule} with the variance of the {unit}s added"


def limits(verdict: Verdict) -> list[str]:
    """State what no test of a few seeds can see."""
    several = [variant for variant in verdict.ranking if len(variant.runs) > 1]
    failed = {run.variant for run in verdict.outcomes.runs if not run.has_result}
    lines, unit = [], verdict.outcomes.unit
    if verdict.items > 1 and verdict.outcomes.groups is None:
        lines.append(f"Test {unit}s are taken to be an independent sample.")
    if (blocks := verdict.outcomes.blocks) is not None:
        names = sorted({block for of_seeds in blocks.values() for block in of_seeds.values()})
        subtracted = "; what each adds to all scores is subtracted" if verdict.design.test == "pooled" else ""
        lines.append(f"The runs come from {len(names)} kinds of machines or places ({listed(names)}){subtracted}.")
    if sound := [len(variant.runs) for variant in several if variant.name not in failed]:
        unseen = percent(1 - LEVEL ** (1 / min(sound)), 0)
        lines.append(
            f"No failure in {counted(min(sound), 'seed')} says little about rare ones: it excludes only that more than "
            f"{unseen}{SPACE}% of seeds fail. Where one variant fails rarely and the others never, up to "
            f"{OF_FAILURES}{SPACE}% of studies of equal variants call one better, instead of 5{SPACE}%."
        )
    if len(several) > 2 and min(len(variant.runs) for variant in several) == 3:
        lines.append(f"With three seeds each it is up to 6.5{SPACE}%.")
    return lines


# ---- charts


def ranking(verdict: Verdict, layout: Layout, lines: Mapping[str, float] | None = None) -> Drawn:
    """Draw each variant's runs, mean and interval; `lines` are scores to compare them with, by name."""
    variants, metric = verdict.ranking, verdict.metric

    def text(score: float) -> str:
        return f"{100 * score:.2f} %" if metric.is_fraction else f"{score:.4g}"

    figure, axes = rows_of(layout, [brief(variant.name, layout) for variant in variants], metric.axis())
    for row, variant in enumerate(variants):
        mean, low, high = (metric.scale * value for value in variant.score)
        bar(axes, variant.index, [low, high], [row, row])
        for run, score in zip(variant.runs, variant.scores, strict=True):
            point(axes, variant.index, metric.scale * score, row, 5.5, f"{run}: {text(score)}", hollow=True)
        point(axes, variant.index, mean, row, 10, f"{variant.name}: {text(variant.score.mean)} on average")
    low, high = axes.get_xlim()
    room = max(high - low, 1.0)
    for name, score in (lines or {}).items():
        value = metric.scale * score
        if low - room < value < high + room:  # near enough not to squeeze the variants together
            axes.axvline(value, color=MUTED, linewidth=1.2, linestyle=DASHED)
            axes.annotate(
                name, (value, 1), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                ha="center", fontsize=11, color=MUTED,
            )  # fmt: skip
    return figure


def differences(verdict: Verdict, layout: Layout, score: str = "") -> Drawn:
    """Draw each pair's lead, its simultaneous interval, and zero, that of equal variants; `score` names the axis."""
    pairs, metric = verdict.pairs, verdict.metric
    names = [(brief(pair.better.name, layout), brief(pair.worse.name, layout)) for pair in pairs]
    space = "\n" if layout.columns == 1 or max(len(a + b) for a, b in names) > 60 else " "
    label = "lead, points" if metric.is_fraction else f"lead in {score or metric.name}"
    figure, axes = rows_of(layout, [f"{a} –{space}{b}" for a, b in names], label)
    axes.axvline(0, color=MUTED, linewidth=1.2, linestyle=DASHED)
    if verdict.margin is not None:
        axes.axvspan(-metric.scale * verdict.margin, metric.scale * verdict.margin, color=RULE, zorder=0)
    for row, pair in enumerate(pairs):
        lead, low, high = (metric.scale * value for value in pair.interval)
        bar(axes, pair.better.index, [low, high], [row, row])
        ends = "" if np.isnan(low) else f" ({low:.4g} to {high:.4g})"
        tip = f"{pair.name}: {lead:.4g}{' points' if metric.is_fraction else ''}{ends}"
        point(axes, pair.better.index, lead, row, 9, tip, hollow=pair.verdict != "better")
    return figure


RANKING = Chart("ranking", "Score of every run, with mean and 95 % interval per variant.", ranking)
DIFFERENCES = Chart("differences", "Lead of every pair of variants, with its 95 % interval.", differences)
