"""The page of a verdict: one HTML file without a network, the same as Markdown, and verdict.json."""

import json
import math
import re
from pathlib import Path

from referee.effects import beside
from referee.formats import NONE, counted, shown_p
from referee.plan import outlooks
from referee.report.differences import DIFFERENCES, INTERVAL, RANKING, differences_section
from referee.report.document import Cell, Code, Document, Figure, Note, Row, Section, Table, render
from referee.report.drawing import draw
from referee.report.effects import CELLS, datasets_section, effects_section
from referee.verdict import Verdict, scope

MOST_ROWS = 60  # of pairs in a figure


def write_report(verdict: Verdict, path: Path) -> Path:
    """Write the page, and beside it report.md, verdict.json and figures/."""
    folder, figures, unit = path.parent, path.parent / "figures", verdict.outcomes.unit
    figures.mkdir(parents=True, exist_ok=True)
    metric, digits = verdict.metric, verdict.digits
    runs = sum(len(variant.runs) for variant in verdict.cells or verdict.ranking)
    parts = [counted(len(verdict.ranking), "variant"), counted(runs, "run")]
    parts += [counted(verdict.items, f"test {unit}")] if verdict.items > 1 else []
    better = "higher" if metric.mode == "max" else "lower"
    sections = []
    if verdict.ranking and verdict.datasets:
        drawing = draw(CELLS, verdict, figures) if verdict.pairs else None
        sections = [Section("Data sets", datasets_section(verdict, drawing))]
    elif verdict.ranking:
        if verdict.effects is not None:
            sections = [Section("Factors", effects_section(verdict, draw(CELLS, verdict, figures)))]
        rows = []
        for variant in verdict.ranking:
            mean = Cell(metric.text(variant.score.mean, digits), bold=True)
            interval = metric.bracket(variant.score, digits) or NONE
            rows.append(Row(variant.name, [mean, interval, str(len(variant.runs))], variant.index))
        table = Table("Ranking", ["Variant", metric.axis(), INTERVAL, "Seeds"], rows, left=[INTERVAL])
        sections += [Section("Ranking", [Figure(draw(RANKING, verdict, figures), RANKING.description), table])]
        if verdict.pairs:
            drawing = draw(DIFFERENCES, verdict, figures) if len(verdict.pairs) <= MOST_ROWS else None
            sections.append(Section("Differences", differences_section(verdict, drawing)))
    if verdict.ranking:
        sections.append(Section("For a paper", [Code(verdict.latex())]))
        read = [Note(note) for note in verdict.outcomes.notes]
        sections += [Section("How the files were read", read)] if read else []
    summary = f"{', '.join(parts)}. Scores are {metric.axis()}; {better} is better."
    document = Document(
        title=f"Verdict: {folder.resolve().name}",
        kicker="The verdict of referee",
        heading=verdict.sentence,
        lead=[*beside(verdict), summary, scope(verdict), *outlooks(verdict)],
        remarks=[str(check) for check in verdict.checks],
        sections=sections,
    )
    path.write_text(render(document, "report.html"), encoding="utf-8")
    path.with_suffix(".md").write_text(render(document, "report.md"), encoding="utf-8")
    record = json.dumps(verdict.record(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "verdict.json").write_text(record + "\n", encoding="utf-8")
    return path


def as_latex(verdict: Verdict) -> str:
    """Return the ranking as a table for a paper: the best, and what is not worse than it, in bold; needs booktabs."""
    metric, digits, best = verdict.metric, verdict.digits, next(iter(verdict.ranking), None)
    of_best = {pair.worse.name: pair for pair in verdict.pairs if pair.better is best}
    rows = []
    for variant in verdict.ranking:
        pair = of_best.get(variant.name)
        _, low, high = variant.score  # of which a fraction's lies within 0 and 1
        half = math.nan if verdict.datasets else metric.scale * max(high - variant.score.mean, variant.score.mean - low)
        shown = f"{metric.scale * variant.score.mean:.{digits}f}"
        shown += "" if math.isnan(half) else rf" \pm {half:.{digits}f}"
        bold = pair is None or (pair.difference is not None and pair.verdict != "better")
        score = rf"$\mathbf{{{shown}}}$" if bold else f"${shown}$"
        lead = "--"
        if pair is not None:
            ends = ", ".join(f"{metric.scale * end:.{digits}f}" for end in pair.interval[1:])
            gap = f"{metric.scale * pair.lead:.{digits}f}"
            begin = "(" if pair.settled and pair.interval.low == 0 else "["
            lead = f"${gap}$" if math.isnan(pair.interval.low) else f"${gap}$ ${begin}{ends}]$"
        p = "--" if pair is None or math.isnan(pair.p) else shown_p(pair.p).replace("< 0.001", "$<$0.001")
        rows.append(f"{escaped(variant.name)} & {len(variant.runs)} & {score} & {lead} & {p} \\\\")
    of = "Data sets" if verdict.datasets else "Seeds"
    header = rf"Variant & {of} & {escaped(metric.axis())} & Lead of the best & $p$ \\"
    table = [r"\begin{tabular}{lrrrr}", r"\toprule", header, r"\midrule", *rows, r"\bottomrule", r"\end{tabular}"]
    note = "% ±: half of a 95 % interval of the mean. Bold: the best, and what is not shown to be worse."
    return "\n".join([*table, note, "% Intervals of leads hold at once, and p is adjusted (closed test)."])


def escaped(text: str) -> str:
    """Return a name with LaTeX's special characters made plain."""
    plain = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    return plain.replace("^", r"\textasciicircum{}").replace("~", r"\textasciitilde{}")
