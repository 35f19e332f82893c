"""The page of a verdict: one HTML file without a network, the same as Markdown, and verdict.json."""

import json
from pathlib import Path

from referee.formats import NONE, counted
from referee.outlooks import outlooks
from referee.report.charts import DIFFERENCES, RANKING
from referee.report.differences import INTERVAL, differences_section
from referee.report.document import Cell, Code, Document, Figure, Note, Row, Section, Table, render
from referee.report.drawing import draw
from referee.verdict import Verdict, scope

MOST_ROWS = 60  # of pairs in a figure


def write_report(verdict: Verdict, path: Path) -> Path:
    """Write the page, and beside it report.md, verdict.json, pairs.csv and figures/."""
    folder = path.parent
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    document = Document(
        title=f"Verdict: {path.parent.resolve().name}",
        kicker="The verdict of referee",
        heading=verdict.sentence,
        lead=[_summary(verdict), scope(verdict), *outlooks(verdict)],
        remarks=[str(check) for check in verdict.checks],
        sections=_sections(verdict, folder / "figures"),
    )
    path.write_text(render(document, "report.html"), encoding="utf-8")
    path.with_suffix(".md").write_text(render(document, "report.md"), encoding="utf-8")
    record = json.dumps(verdict.record(), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "verdict.json").write_text(record + "\n", encoding="utf-8")
    verdict.table().to_csv(folder / "pairs.csv", index=False)
    return path


def _summary(verdict: Verdict) -> str:
    parts = [counted(len(verdict.ranking), "variant"), counted(sum(len(v.runs) for v in verdict.ranking), "run")]
    if verdict.items > 1:
        parts.append(counted(verdict.items, f"test {verdict.outcomes.unit}"))
    better = "higher" if verdict.metric.mode == "max" else "lower"
    return f"{', '.join(parts)}. Scores are {verdict.metric.axis()}; {better} is better."


def _sections(verdict: Verdict, folder: Path) -> list[Section]:
    if not verdict.ranking:
        return []
    sections = [Section("Ranking", [Figure(draw(RANKING, verdict, folder), RANKING.description), _ranking(verdict)])]
    if verdict.pairs:
        few = len(verdict.pairs) <= MOST_ROWS
        drawing = draw(DIFFERENCES, verdict, folder) if few else None
        sections.append(Section("Differences", differences_section(verdict, drawing, not verdict.of_models)))
    sections.append(Section("For a paper", [Code(verdict.latex())]))
    if verdict.outcomes.notes:
        sections.append(Section("How the files were read", [Note(note) for note in verdict.outcomes.notes]))
    return sections


def _ranking(verdict: Verdict) -> Table:
    metric, digits = verdict.metric, verdict.digits
    rows = []
    for variant in verdict.ranking:
        mean = Cell(metric.text(variant.score.mean, digits), bold=True)
        interval = metric.bracket(variant.score, digits) or NONE
        rows.append(Row(variant.name, [mean, interval, str(len(variant.runs))], variant.index))
    return Table("Ranking", ["Variant", metric.axis(), INTERVAL, "Seeds"], rows, left=[INTERVAL], labeled=True)
