"""The page of a verdict: one HTML file without a network, the same as Markdown, and verdict.json."""

import json
from collections.abc import Sequence
from pathlib import Path

from referee.formats import NONE, counted, p_value, percent
from referee.report.charts import DIFFERENCES, RANKING
from referee.report.document import Cell, Code, Document, Figure, Note, Part, Row, Section, Table, render
from referee.report.drawing import draw
from referee.report.latex import as_latex
from referee.report.record import as_record
from referee.sentences import scope
from referee.statistics.power import detectable
from referee.verdict import Pair, Verdict

MOST_ROWS = 60  # of pairs in a figure


def write_report(verdict: Verdict, path: Path, sections: Sequence[Section] = ()) -> Path:
    """Write the page, report.md, verdict.json, pairs.csv and figures/ beside it; return the page's path.

    Args:
        sections: a caller's own, after those of the verdict.
    """
    folder = path.parent
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    document = Document(
        title=f"Verdict: {path.parent.resolve().name}",
        kicker="The verdict of referee",
        heading=verdict.sentence,
        lead=[_summary(verdict), scope(verdict)],
        remarks=[str(check) for check in verdict.checks],
        sections=[*_sections(verdict, folder / "figures"), *sections],
    )
    path.write_text(render(document, "report.html"), encoding="utf-8")
    path.with_suffix(".md").write_text(render(document, "report.md"), encoding="utf-8")
    record = json.dumps(as_record(verdict), indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "verdict.json").write_text(record + "\n", encoding="utf-8")
    verdict.table().to_csv(folder / "pairs.csv", index=False)
    return path


def _summary(verdict: Verdict) -> str:
    items = max((variant.outcomes.shape[1] for variant in verdict.ranking), default=1)
    parts = [counted(len(verdict.ranking), "variant"), counted(sum(len(v.runs) for v in verdict.ranking), "run")]
    if items > 1:
        parts.append(counted(items, "test item"))
    better = "higher" if verdict.metric.mode == "max" else "lower"
    return f"{', '.join(parts)}. Scores are {verdict.metric.axis}; {better} is better."


def _sections(verdict: Verdict, folder: Path) -> list[Section]:
    if not verdict.ranking:
        return []
    sections = [Section("Ranking", [Figure(draw(RANKING, verdict, folder), RANKING.description), _ranking(verdict)])]
    if verdict.pairs:
        parts: list[Part] = [_pairs(verdict), Note(_how_to_read(verdict))]
        if len(verdict.pairs) <= MOST_ROWS:
            parts.insert(0, Figure(draw(DIFFERENCES, verdict, folder), DIFFERENCES.description))
        sections.append(Section("Differences", parts))
    sections.append(Section("For a paper", [Code(as_latex(verdict))]))
    if verdict.outcomes.notes:
        sections.append(Section("How the files were read", [Note(note) for note in verdict.outcomes.notes]))
    return sections


def _ranking(verdict: Verdict) -> Table:
    metric, digits = verdict.metric, verdict.digits
    rows = [
        Row(
            variant.name,
            [
                Cell(metric.text(variant.score.mean, digits), bold=True),
                metric.bracket(variant.score, digits) or NONE,
                str(len(variant.runs)),
            ],
            variant.index,
        )
        for variant in verdict.ranking
    ]
    return Table("Ranking", ["Variant", metric.axis, "95 % interval", "Seeds"], rows, left=["95 % interval"])


def _pairs(verdict: Verdict) -> Table:
    columns = ["Pair", "Lead", "95 % interval", "Conclusion", "p, adjusted", "Wins one\nmore run", "Detectable\n(80 %)"]
    rows = [Row(f"{pair.better.name} – {pair.worse.name}", _cells(pair, verdict)) for pair in verdict.pairs]
    return Table("Differences between variants", columns, rows, left=["95 % interval", "Conclusion"])


def _cells(pair: Pair, verdict: Verdict) -> list[str | Cell]:
    metric, digits, pilot = verdict.metric, verdict.digits, verdict.pilot
    seeds = min(len(pair.better.runs), len(pair.worse.runs))
    chance = NONE if pair.chance != pair.chance else f"{percent(pair.chance, 0)} %"
    return [
        Cell(metric.text(pair.lead, digits), bold=True),
        metric.bracket(pair.interval, digits) or NONE,
        "not tested" if pair.difference is None else {"no winner yet": "undecided"}.get(pair.verdict, pair.verdict),
        p_value(pair.p),
        chance,
        NONE if pilot is None or seeds < 2 else metric.text(detectable(pilot, seeds), digits),
    ]


def _how_to_read(verdict: Verdict) -> str:
    adjusted = f"adjusted for {counted(len(verdict.pairs), 'pair')} by Shaffer's step-down"
    lines = [
        "*95 % interval*: of the true lead; all intervals of the table hold at once.",
        f"*p*: the smallest level at which the pair is called better, {adjusted}.",
        "*Undecided* does not mean equal: the interval shows which differences remain possible.",
    ]
    if verdict.margin is not None:
        lines.append(
            f"*Equal*: two one-sided tests exclude a difference of {verdict.metric.size(verdict.margin)} or more."
        )
    if not verdict.of_models:
        lines += [
            "*Wins one more run*: the probability that one more run of the first scores better than one of the second.",
            "*Detectable (80 %)*: the true lead that 4 of 5 such comparisons would call better.",
        ]
    return " ".join(lines)
