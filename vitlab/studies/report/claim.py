"""A report's section on the claim that its study tests."""

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from referee.formats import NONE, SPACE, p_value
from referee.report.differences import INTERVAL
from referee.report.document import Heading, Note, Part, Row, Table
from referee.report.drawing import Chart, Drawing, Layout
from referee.statistics.intervals import Interval

from vitlab.atomic_files import write_text
from vitlab.studies.claim import Claim, Found
from vitlab.studies.execution.local import allot
from vitlab.studies.report.figures import draw_claim
from vitlab.studies.report.remarks import objections
from vitlab.studies.report.verdict import outlooks, verdict
from vitlab.studies.results import StudyResults


def word_of(claim: Claim, results: StudyResults) -> str:
    """Return repeated, contradicted, equal within the margin, or not settled."""
    return claim.word(_found(results))


def _found(results: StudyResults) -> list[Found]:
    found = []
    for pair in [] if objections(results) else results.pairs:
        equal = pair.difference is not None and pair.difference.is_within(results.margin or 0.0)
        found.append(Found(pair.better.name, pair.worse.name, pair.settled, equal))
    return found


def deciding(claim: Claim, results: StudyResults) -> list[list[str]]:
    """Return a row for each pair of the claim's order: the pair, its lead, the lead's interval and p, and the word."""
    metric, digits, rows = results.metric, results.digits, []
    pairs = {frozenset((pair.better.name, pair.worse.name)): pair for pair in results.pairs}
    for relation, word in zip(claim.relations, claim.words(_found(results)), strict=True):
        shown = [NONE, NONE, NONE]
        if pair := pairs.get(frozenset((relation.first, relation.second))):
            lead = pair.interval
            if pair.better.name != relation.first:
                lead = Interval(-lead.mean, -lead.high, -lead.low)
            shown = [metric.text(lead.mean, digits), metric.bracket(lead, digits) or NONE, p_value(pair.p)]
        rows.append([f"{relation.first} {relation.sign} {relation.second}", *shown, word])
    return rows


def decided(claim: Claim, results: StudyResults) -> list[str]:
    """Return the rows of `deciding` as sentences."""
    unit = f"{SPACE}points" if results.metric.is_accuracy else ""
    return [
        f"{order}: {word}." + (f" The first leads by {lead}{unit}{shown}." if lead != NONE else "")
        for order, lead, interval, _, word in deciding(claim, results)
        for shown in ["" if interval == NONE else f" {interval}"]
    ]


def deciding_table(rows: Sequence[Sequence[str]]) -> list[Part]:
    """Return the rows of `deciding` as a table, with a note on how to read it."""
    table = Table(
        "What decides the word",
        ["Claimed", "Lead of the first", INTERVAL, "p", "Word"],
        [Row(pair, cells) for pair, *cells in rows],
        left=["Word"],
    )
    note = "Intervals and p are over seeds and test images, and adjusted for all pairs of the study's variants."
    return [Heading("What decides the word"), table, Note(note)]


def headline(claim: Claim, results: StudyResults) -> str:
    """Return the claim and the word."""
    return f"{claim.sentence.rstrip('.')}: {word_of(claim, results)}."


def about(claim: Claim) -> list[str]:
    """Return where the claim is from, what was published, and what differs here."""
    figures = ", ".join(f"{variant} {value:g}" for variant, value in claim.published.items())
    return [
        f"Claim: {claim.source}{f': {figures}' if figures else ''}.",
        f"What differs here: {claim.differs}",
        f"What would change the word: {claim.doubt}",
    ]


def write_claim(claim: Claim, results: StudyResults, drawing: Drawing, folder: Path) -> None:
    """Write claim.json into a study's folder, for the page about all claims."""
    seconds = sum(result.summary.get("wall_seconds", result.seconds) for result in results.finished)
    word, finding = word_of(claim, results), verdict(results)
    record = {
        "word": word,
        "files": results.study.digest,
        "ended": not results.failures and (results.watch is None or results.watch.stop is not None),
        "minutes": seconds / 60 / allot([result.run for result in results.finished], results.study.jobs).jobs,
        "deciding": deciding(claim, results),
        "text": [f"In one word: {word}.", f"All variants: {finding}", *about(claim), *outlooks(results)],
        "caption": caption(claim),
        "wide": drawing.wide,
        "narrow": drawing.narrow,
    }
    write_text(folder / "claim.json", json.dumps(record, ensure_ascii=False))


def caption(claim: Claim) -> str:
    """Return what the claim's figure shows."""
    shown = "mean and 95 % interval over seeds."
    if not claim.published:
        return f"These runs: {shown}"
    return f"Left: as published, each figure at the variant that comes nearest to it. Right: these runs, {shown}"


def chart(claim: Claim) -> Chart:
    """Return the figure of the claim: as published, and from these runs."""

    def draw(results: StudyResults, layout: Layout) -> Figure:
        return draw_claim(claim, results, layout)

    shown = "As published, and in these runs." if claim.published else "In these runs."
    return Chart("claim", f"{claim.sentence} {shown}", draw)
