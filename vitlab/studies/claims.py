"""Test a folder of claims: run the studies that are missing, the cheapest first, and write one page about all."""

import math
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from referee.claim import CONTRADICTED, EQUAL, OPEN, REPEATED
from referee.formats import counted, joined
from referee.report.claim import deciding_table
from referee.report.document import Code, Document, Figure, Part, Row, Section, Table, Text, render
from referee.report.drawing import Chart, Drawing

from vitlab.atomic_files import read_json
from vitlab.config import load_yaml
from vitlab.studies.study import Study, read_study, slug

WORDS = (REPEATED, CONTRADICTED, EQUAL, OPEN)


def read_claims(folder: Path) -> list[Study]:
    """Return the studies of a folder that test a claim, the cheapest first.

    Raises:
        ValueError: no such study.
    """
    studies = [read_study(path) for path in sorted(folder.glob("*.yaml")) if "claim" in load_yaml(path)]
    if not studies:
        raise ValueError(f"{folder} has no study with a `claim`. docs/claims.md explains how to write one.")
    return sorted(studies, key=_minutes)


def run_claims(folder: Path, root: Path, compare: Callable[[Path, Path], object]) -> Path:
    """Run what is missing, and return the path of the page, which is written after each study.

    Args:
        folder: of the claims' files.
        root: Folder of the studies' runs, and of the page.
        compare: Runs a study below a folder of runs.
    """
    studies = read_claims(folder)
    for number, study in enumerate(studies, 1):
        if not is_tested(study, root):
            print(f"Claim {number} of {len(studies)}: {study.path}", flush=True)
            compare(study.path, root)
        page = write_page(studies, root)
    return page


def is_tested(study: Study, root: Path) -> bool:
    """Whether the study ended with the settings that its files have now."""
    record = _read(root / slug(study.name) / "claim.json")
    return bool(record) and record["ended"] and record.get("files") == study.digest


def write_page(studies: Sequence[Study], root: Path) -> Path:
    """Write report.html and report.md about the claims, tested or not; return the path of the first."""
    rows, untested, sections, words = [], [], [], list[str]()
    for study in studies:
        assert study.claim is not None
        record, folder = _read(root / slug(study.name) / "claim.json"), slug(study.name)
        command = f"python -m vitlab compare --config {shlex.quote(str(study.path))} --root {shlex.quote(str(root))}"
        if not record:
            expected = "" if study.claim.minutes is None else f"about {study.claim.minutes:g}"
            untested.append(Row(study.name, ["not tested yet", expected, study.claim.sentence]))
            continue
        words.append(record["word"])
        rows.append(Row(study.name, [record["word"], f"{record['minutes']:.0f}", study.claim.sentence]))
        chart = Chart(f"{folder}/figures/claim", record["caption"], lambda results, layout: None)  # type: ignore[arg-type, return-value]
        parts: list[Part] = [
            *(Text(text) for text in [study.claim.sentence, *record["text"]]),
            *deciding_table(record["deciding"]),
            Figure(Drawing(chart, record["wide"], record["narrow"]), record["caption"]),
            Code(command),
        ]
        sections.append(Section(study.name, parts))
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    heading = f"{counted(len(words), 'claim')} tested: {joined(counts)}" if words else "No claim tested yet"
    columns = ["Claim", "Word", "Minutes", "Sentence"]
    table = Table("Claims", columns, [*rows, *untested], left=["Word", "Sentence"], wrapped=["Sentence"])
    document = Document(
        title="Claims, re-tested",
        kicker=f"{counted(len(studies), 'claim')} · {time.strftime('%Y-%m-%d')}",
        heading=heading,
        lead=[
            "Each claim of a paper is a study with several seeds. Its word follows from intervals over seeds and test "
            "images. Repeated: what the claim calls better is better here, beyond chance. Contradicted: the opposite "
            "is. Equal within the margin: a difference that matters is excluded. Not settled: none of these. A word "
            "is about the data and the budget named below the claim, not about the paper's own."
        ],
        remarks=[],
        sections=[Section("All claims", [table]), *sections],
    )
    root.mkdir(parents=True, exist_ok=True)
    for name in ("report.md", "report.html"):
        (root / name).write_text(render(document, name), encoding="utf-8")
    return root / "report.html"


def _minutes(study: Study) -> float:
    minutes = study.claim.minutes if study.claim else None
    return math.inf if minutes is None else minutes


def _read(file: Path) -> dict[str, Any]:
    """Return a study's record; empty before its report, or where an earlier version of this code wrote it."""
    record = read_json(file, missing={})
    return record if "deciding" in record else {}
