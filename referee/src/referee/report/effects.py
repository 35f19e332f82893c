"""The section on averages: leads over other factors' levels or over data sets, those at each place, and all cells."""

import textwrap

from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import MaxNLocator

from referee.effects import depends
from referee.formats import NONE, joined, shown_p
from referee.report.differences import INTERVAL
from referee.report.document import Cell, Details, Figure, Heading, Note, Part, Row, Table, Text
from referee.report.drawing import Chart, Drawing, Layout, bar, brief, panels_of, point, put_legend, style_of
from referee.verdict import DEPENDS, OPEN, Pair, Variant, Verdict, conclusion

SHOWN = 6  # interactions, beyond which they are folded up
ACROSS = 5  # names below an axis, beyond which they stand upright
Lines = dict[str, dict[str, Variant]]
"""Cells by the line and the place on the axis at which they are drawn."""


def effects_section(verdict: Verdict, drawing: Drawing | None) -> list[Part]:
    """Return what a grid shows: each factor's main and simple effects, interactions, and the cells with a drawing."""
    if verdict.effects is None:
        return []
    parts: list[Part] = []
    for factor, on_levels in verdict.effects.of.items():
        if len(on_levels.ranking) > 1:
            parts += [Heading(factor), Text(conclusion(on_levels)), *leads_table(on_levels, "At")]
    if interactions := verdict.effects.interactions:
        rows = []
        for each in interactions:
            lead = Cell(verdict.metric.text(each.estimate, verdict.digits), bold=True)
            cells: list[str | Cell] = [each.at, each.than, lead, verdict.metric.bracket(each.interval, verdict.digits)]
            cells += ["yes" if each.word == DEPENDS else "undecided", shown_p(each.p)]
            rows.append(Row(" – ".join(each.levels), cells))
        columns = ["Lead of", "Larger at", "Than at", "By", INTERVAL, "Beyond chance", "p, adjusted"]
        table = Table("Interactions", columns, rows, left=columns[1:3] + columns[4:6])
        note = Note(
            "A lead that is larger at one level than at another is an *interaction*. Intervals hold at once, and p is "
            f"adjusted for all {len(rows)} (Bonferroni)."
        )
        parts += [Heading("Does a lead depend on another factor?"), Text(depends(interactions, verdict))]
        parts += [Details("Every interaction", [table, note])] if len(rows) > SHOWN else [table, note]
    return [*parts, Heading("Cells"), *cells_parts(verdict, drawing)]


def datasets_section(verdict: Verdict, drawing: Drawing | None) -> list[Part]:
    """Return what several data sets show: mean leads and those on each, others of the kind, and the verdict on each."""
    parts = leads_table(verdict, "On")
    if verdict.general:
        rows = []
        for pair, lead in zip(verdict.pairs, verdict.general, strict=True):
            ends = verdict.metric.bracket(lead.elsewhere, verdict.digits)
            is_better = lead.mean > 0 and lead.adjusted <= lead.level
            rows.append(Row(pair.name, [ends, "better" if is_better else "open", shown_p(lead.adjusted)]))
        columns = ["Pair", "Lead on another", "In general", "p, adjusted"]
        how = (
            "*Lead on another*: where 95 % of such data sets have their lead, if these were drawn from them. "
            "*In general*: whether the mean lead over all such data sets is above 0, by a t-test of the leads."
        )
        table = Table("Others", columns, rows, left=columns[1:3])
        parts += [Heading("Other data sets of the kind"), table, Note(how)]
    each = [Row(d, [of.sentence]) for d, of in verdict.datasets.items()]
    columns = ["Data set", "Verdict"]
    table = Table("Each data set", columns, each, left=columns[1:])
    note = Note("Each by itself, not corrected over data sets.")
    return [*parts, Heading("Each data set"), table, note, Heading("Scores"), *cells_parts(verdict, drawing)]


def leads_table(verdict: Verdict, at: str) -> list[Part]:
    """Return the mean leads with those at each place, which are judged by themselves; `at` heads the places."""
    means, by_place = [], []
    for pair in verdict.pairs:
        both = {pair.better.name, pair.worse.name}
        there = [(p, each) for p, of in verdict.places.items() for each in of if {each[0].name, each[1].name} == both]
        known = len(there) > 1 or verdict.datasets
        means.append(_row(pair, f"mean of {len(there)}" if known else NONE if not there else there[0][0], verdict))
        by_place.append([_row(each, place, verdict) for place, each in there] if known else [])
    columns = ["Pair", at, "Lead", INTERVAL, "Conclusion", "p, adjusted"]
    note = Note(
        "Intervals of means hold at once, and their p is adjusted for all pairs. The rows of a single place are judged "
        "by themselves: their intervals and p are not corrected over places."
    )

    def table(name: str, rows: list[Row]) -> Table:
        return Table(name, columns, rows, left=[at, INTERVAL, "Conclusion"])

    if not any(by_place):
        return [table("Leads", means), note]
    folded = table("Leads at each place", [row for there in by_place for row in there])
    return [table("Mean leads", means), Details("Leads at each place, by itself", [folded]), note]


def _row(pair: Pair, where: str, verdict: Verdict) -> Row:
    lead, word = verdict.metric.text(pair.lead, verdict.digits), "undecided" if pair.verdict == OPEN else pair.verdict
    word = "not tested" if pair.difference is None else word
    bold = Cell(lead, bold=where.startswith("mean"))
    return Row(pair.name, [where, bold, pair.bracket(verdict.digits) or NONE, word, shown_p(pair.p)])


def lines_of(verdict: Verdict) -> tuple[str, str, Lines, list[str]]:
    """Return what lines and places are, the cells of the first factor's levels or of variants, and the places."""
    if verdict.datasets:
        names = [variant.name for variant in verdict.ranking]
        by_name = {d: {v.name: v for v in each.ranking} for d, each in verdict.datasets.items()}
        lines = {name: {d: of[name] for d, of in by_name.items() if name in of} for name in names}
        what, at = "variant", "data set"
    else:
        factors, lines = verdict.outcomes.factors or {}, {}
        what, *others = factors
        at = joined(others) if others else ""
        for cell in verdict.effects.of[what].cells if verdict.effects else ():
            place = ", ".join(factors[factor][cell.name] for factor in others)
            lines.setdefault(factors[what][cell.name], {})[place] = cell
    return what, at, lines, list(dict.fromkeys(place for line in lines.values() for place in line))


def cells_parts(verdict: Verdict, drawing: Drawing | None) -> list[Part]:
    """Return the drawing and the table of all cells."""
    what, at, lines, places = lines_of(verdict)
    best = max((v for line in lines.values() for v in line.values()), key=lambda v: v.metric.sign * v.score.mean)

    def cell(variant: Variant | None) -> str | Cell:
        if variant is None:
            return NONE
        mean = variant.metric.text(variant.score.mean, verdict.digits)
        interval = variant.metric.bracket(variant.score, verdict.digits)
        return Cell(f"{mean} {interval}".rstrip(), bold=variant is best and not verdict.datasets)

    rows = [Row(place or what, [cell(line.get(place)) for line in lines.values()]) for place in places]
    table = Table("Cells", [at or what, *lines], rows)
    each = "" if not at else " of each cell" if verdict.datasets else f" of each cell; a line is a {what}"
    caption = f"Mean and 95 % interval over seeds{each}."
    return [*([Figure(drawing, caption)] if drawing else []), table]


def draw_cells(verdict: Verdict, layout: Layout) -> Drawn:
    """Draw the mean and interval of each cell, a line for each level of the first factor, or for each variant."""
    _, at, lines, places = lines_of(verdict)
    upright = len(places) > (ACROSS if layout.columns > 1 else 3)
    figure, (axes,) = panels_of(layout, 1, 300 + 90 * upright)
    for index, (name, line) in enumerate(lines.items()):
        aside = (index - (len(lines) - 1) / 2) * min(0.12, 0.5 / len(lines))
        style, x = style_of(index), [places.index(place) + aside for place in line]
        scores = [[each.metric.scale * value for value in each.score] for each in line.values()]
        joined_up = style["linestyle"] if not verdict.datasets else "none"
        axes.plot(x, [mean for mean, *_ in scores], label=name, **(style | {"linestyle": joined_up}))
        for at_x, (mean, low, high), place in zip(x, scores, line, strict=True):
            bar(axes, index, [at_x, at_x], [low, high])
            point(axes, index, at_x, mean, 7, f"{name}, {place}: {mean:.4g}")
    names = [brief(place, layout) if upright else textwrap.fill(brief(place, layout), 14) for place in places]
    axes.set_xticks(range(len(places)), names, rotation=90 * upright)
    axes.set_xlim(-0.5, len(places) - 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel(verdict.metric.axis())
    if at:
        axes.set_xlabel(at)
    put_legend(figure, axes, layout)
    return figure


CELLS = Chart("cells", "Mean and 95 % interval of every cell.", draw_cells)
