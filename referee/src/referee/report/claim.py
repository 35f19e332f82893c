"""The claim that a study tests, in its report: one word, the pairs that decide it, and a figure."""

import textwrap
from collections import Counter
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from referee.claim import CONTRADICTED, REPEATED, Claim
from referee.formats import NONE, SPACE, joined, shown_p
from referee.report.differences import INTERVAL
from referee.report.document import Heading, Note, Part, Row, Table
from referee.report.drawing import TIP, Chart, Layout, bar, brief, panels_of, put_legend, style_of
from referee.verdict import VOID, Verdict

TABLE = "What decides the word"
SENTENCES = 4  # at most, on the relations of a claim; more are counted


def deciding(claim: Claim, verdict: Verdict) -> list[list[str]]:
    """Return a row for each relation: its variants, the lead of the first, interval and p, and the word."""
    metric, digits, rows = verdict.metric, verdict.digits, []
    for relation, each in zip(claim.relations, verdict.relations, strict=True):
        shown, word = [NONE, NONE, NONE], verdict.word if verdict.verdict == VOID else each.word
        if each.difference is not None:
            lead = each.difference.interval
            shown = [metric.text(lead.mean, digits), metric.bracket(lead, digits) or NONE]
            shown.append(shown_p(each.difference.p))
        if each.is_small and word in (REPEATED, CONTRADICTED) and relation.sign == ">":
            word += ", smaller than the margin"
        rows.append([" ".join(relation), *shown, word])
    return rows


def in_words(claim: Claim, verdict: Verdict) -> list[str]:
    """Return in sentences what a claim needs and lacks, and each row of `deciding`; of many relations, how many."""
    rows = deciding(claim, verdict)
    lines = [f"Not tested, since {why}." for why in verdict.design.unmet]
    if len(rows) > SENTENCES:
        words = Counter(word.partition(",")[0] for *_, word in rows)
        each = joined([f"{count} {'is' if count == 1 else 'are'} {word}" for word, count in words.most_common()])
        return [*lines, f"Of {len(rows)} relations {each}. The table “{TABLE}” has their leads."]
    unit = f"{SPACE}points" if verdict.metric.is_fraction else ""
    by = "by a factor of" if verdict.metric.is_log else "by"
    for order, lead, interval, _, word in rows:
        shown = "" if interval == NONE else f" {interval}"
        lines.append(f"{order}: {word}." + (f" The first leads {by} {lead}{unit}{shown}." if lead != NONE else ""))
    return lines


def deciding_table(rows: Sequence[Sequence[str]]) -> list[Part]:
    """Return the rows of `deciding` as a table, with a note on how to read it."""
    columns = ["Claimed", "Lead of the first", INTERVAL, "p", "Word"]
    table = Table(TABLE, columns, [Row(pair, cells) for pair, *cells in rows], left=["Word"])
    note = (
        "Each pair is tested by itself: a claim holds only where every pair does, so intervals and p need no "
        "correction. What speaks against it is corrected for the number of its pairs (Holm)."
    )
    return [Heading(TABLE), table, Note(note)]


def headline(claim: Claim, verdict: Verdict) -> str:
    """Return the claim and the word."""
    return f"{claim.sentence.rstrip('.')}: {verdict.word}."


def about(claim: Claim) -> list[str]:
    """Return where the claim is from, what was published, and what differs here."""
    figures = ", ".join(f"{variant} {value:g}" for variant, value in claim.published.items())
    return [
        f"Claim: {claim.source}{f': {figures}' if figures else ''}.",
        f"What differs here: {claim.differs}",
        f"What would change the word: {claim.doubt}",
    ]


def caption(claim: Claim) -> str:
    """Return what the claim's figure shows."""
    shown = "mean and 95 % interval over seeds."
    if not claim.published:
        return f"These runs: {shown}"
    return f"Left: as published, each figure at the variant that comes nearest to it. Right: these runs, {shown}"


def draw_claim(claim: Claim, verdict: Verdict, layout: Layout) -> Figure:
    """Draw a claim's published figures next to the means and intervals of the runs, over the claim's axis."""
    by_name = {variant.name: variant for variant in verdict.ranking}
    curves = claim.curves or {"": {name: name for name in verdict.outcomes.variants}}
    places = dict.fromkeys(place for curve in curves.values() for place in curve)
    is_number = all(isinstance(place, int | float) for place in places)
    at = {place: place if is_number else i for i, place in enumerate(places)}
    figure, (*published, ours) = panels_of(layout, 2 if claim.published else 1, 250)
    scale = verdict.metric.scale
    for index, (name, curve) in enumerate(curves.items()):
        line = style_of(index) | ({} if is_number else {"linestyle": "none"})
        points = sorted((at[place], variant) for place, variant in curve.items())
        for axes in published:
            printed = [(x, claim.published[variant]) for x, variant in points if variant in claim.published]
            axes.plot(*zip(*printed, strict=True), **line, label=name)
        shown = [(x, by_name[variant]) for x, variant in points if variant in by_name]
        ours.plot([x for x, _ in shown], [scale * result.score.mean for _, result in shown], **line, label=name)
        for x, result in shown:
            mean, low, high = (scale * value for value in result.score)
            bar(ours, index, [x, x], [low, high])
            ours.plot(x, mean, gid=f"{TIP}{result.name}: {mean:.4g}", **(line | {"linestyle": "none"}))
    for axes, title in zip([*published, ours], ["as published", "here"] if published else [""], strict=True):
        axes.set_title(title)
        axes.set_xlabel(claim.axis)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        names = [f"{p:g}" if isinstance(p, int | float) else textwrap.fill(brief(p, layout), 14) for p in places]
        axes.set_xticks([at[place] for place in places], names)
        axes.margins(x=0.15)
    ours.set_ylabel(verdict.metric.axis())
    if len(curves) > 1:
        put_legend(figure, ours, layout)
    return figure


def chart(claim: Claim, verdict: Verdict) -> Chart:
    """Return the figure of the claim: as published, and from these runs."""
    shown = "As published, and in these runs." if claim.published else "In these runs."
    return Chart("claim", f"{claim.sentence} {shown}", lambda _, layout: draw_claim(claim, verdict, layout))
