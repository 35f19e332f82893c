"""What a report consists of. The templates render the same sections as HTML and as Markdown."""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from markupsafe import Markup, escape

from referee.formats import percent, templates
from referee.report.drawing import COLORS, MARKERS, Drawing


class Cell(NamedTuple):
    """A table cell; `heat` in [0, 1] shades its background, `title` is its tooltip."""

    text: str
    bold: bool = False
    heat: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Row:
    """A table row. `index` is the variant's, whose marker precedes the head; `marks` are warnings behind it."""

    head: str
    cells: Sequence[str | Cell]  # if they are fewer than the columns, the last one spans the rest
    index: int | None = None
    marks: Sequence[str] = ()
    reference: bool = False  # a baseline among variants


@dataclass(frozen=True)
class Table:
    """A table with row heads; `columns` includes theirs. Columns not in `left` are right-aligned."""

    kind: ClassVar[str] = "table"
    label: str
    columns: Sequence[str]
    rows: Sequence[Row]
    left: Sequence[str] = ()
    wrapped: Sequence[str] = ()  # columns of sentences
    monospaced: bool = False


class Text(NamedTuple):
    """A paragraph, literally; as a `note`, *…* is emphasized."""

    text: str
    kind: Literal["text", "note", "code", "heading"] = "text"


Note = partial(Text, kind="note")
Code = partial(Text, kind="code")
Heading = partial(Text, kind="heading")


@dataclass(frozen=True)
class Figure:
    """A drawing and its caption."""

    kind: ClassVar[str] = "figure"
    drawing: Drawing
    caption: str


@dataclass(frozen=True)
class Details:
    """Parts that are folded up in HTML."""

    kind: ClassVar[str] = "details"
    summary: str
    parts: "Sequence[Part]"


@dataclass(frozen=True)
class Links:
    """Other pages, by their path from this one's folder, each below a picture if it has one."""

    kind: ClassVar[str] = "links"
    pages: Sequence[tuple[str, str]]  # a name and a path
    pictures: Sequence[str] = ()  # paths, of all pages


@dataclass(frozen=True)
class Gallery:
    """Test images with predictions, `named` below; in Markdown a link to the page's."""

    kind: ClassVar[str] = "gallery"
    cards: Sequence[Any]  # with name, label, data_uri, pixelated and answers
    named: bool = False


Part = Table | Text | Figure | Details | Links | Gallery


class Section(NamedTuple):
    """A section, linked from the top of the page."""

    title: str
    parts: Sequence[Part]


class Document(NamedTuple):
    """A report: what it shows in one sentence, what qualifies that, and the sections."""

    title: str  # of the browser's tab
    kicker: str
    heading: str
    lead: Sequence[str]
    remarks: Sequence[str]
    sections: Sequence[Section]
    question: str = ""  # of the study, above the heading


def render(document: Document, template: str) -> str:
    """Render a document as `report.html` or `report.md`."""
    pages = templates(Path(__file__).parent)
    pages.filters |= {"percent": percent, "marked": _marked}
    pages.filters["emphasized"] = lambda note: Markup(re.sub(r"\*(.+?)\*", r"<em>\1</em>", str(_marked(note))))
    # A name or a value for a cell of a Markdown table, where it is one line without markup.
    pages.filters["literal"] = lambda cell: re.sub(r"([|`]|<(?=[a-zA-Z/!]))", r"\\\1", cell.replace("\n", " "))
    return pages.get_template(f"{template}.jinja").render(document=document, colors=COLORS, markers=MARKERS)


def numbers(title: str, parts: Sequence[Part]) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield every cell of the tables of a section: its title, table, row, column, text."""
    for part in parts:
        if isinstance(part, Details):
            yield from numbers(title, part.parts)
        if isinstance(part, Table):
            for row in part.rows:
                for column, cell in zip(part.columns[1:], row.cells, strict=False):
                    text = cell if isinstance(cell, str) else cell.text
                    yield title, part.label, row.head, column.replace("\n", " "), text


def write_document(document: Document, folder: Path) -> Path:
    """Write report.md, report.csv with every number of its tables, and report.html; return the path of the last."""
    cells = [cell for section in document.sections for cell in numbers(*section)]
    with (folder / "report.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("section", "table", "row", "column", "value"), *cells])
    for name in ("report.md", "report.html"):
        (folder / name).write_text(render(document, name), encoding="utf-8")
    return folder / "report.html"


def _marked(text: str) -> Markup:
    """Return a sentence as HTML, `code` as such."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
