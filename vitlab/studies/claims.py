"""A folder of claims: the studies that test them, and one page with the word of each."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from referee.claim import NOT_TESTED, Claim
from referee.formats import NONE, counted, joined
from referee.report.document import Document, Links, Row, Section, Table, write_document
from referee.statistics.relations import CONTRADICTED, EQUAL, OPEN, REPEATED

from vitlab.atomic_files import read_json
from vitlab.config import load_yaml
from vitlab.studies.file.registration import first_word
from vitlab.studies.file.study import Study, read_study, slug

WORDS = (REPEATED, CONTRADICTED, EQUAL, OPEN, NOT_TESTED)
LEAD = (
    "Each claim of a paper is a study with several seeds. Its word follows from intervals over seeds, of accuracies "
    "over test images too. Repeated: what the claim expects is so here, beyond chance. Contradicted: the opposite is. "
    "Equal within the margin: a difference that matters is excluded. Not settled: none of these. Not tested: the runs "
    "lack what the claim needs. The first word is the one recorded first; record/ beside the study has all, with the "
    "settings and seeds of each registration. A word is about the data and the budget that the claim's report names, "
    "not about the paper's own."
)


def read_claims(folder: Path) -> list[Study]:
    """Return the studies of a folder that test a claim, the cheapest first.

    Raises:
        ValueError: no such study.
    """
    studies = [read_study(path) for path in sorted(folder.glob("*.yaml")) if "claim" in load_yaml(path)]
    if not studies:
        raise ValueError(f"{folder} has no study with a `claim`. docs/claims.md explains how to write one.")
    return sorted(studies, key=lambda study: math.inf if (minutes := _claim(study).minutes) is None else minutes)


def _claim(study: Study) -> Claim:
    assert study.claim is not None
    return study.claim


def is_tested(study: Study, root: Path) -> bool:
    """Whether the study ended with the settings that its files have now."""
    record = _record(study, root)
    return bool(record) and record["ended"] and record.get("files") == study.digest


def _record(study: Study, root: Path) -> dict[str, Any]:
    """Return what the study's report wrote; empty before."""
    record: dict[str, Any] = read_json(root / slug(study.name) / "claim.json", missing={})
    return record


def write_page(studies: Sequence[Study], root: Path) -> Path:
    """Write report.html and report.md about the claims, tested or not; return the path of the first."""
    rows, untested, reports, words = [], [], [], list[str]()
    for study in studies:
        claim, record = _claim(study), _record(study, root)
        if record:
            words.append(record["word"])
            first = first_word(study) or record["word"]
            rows.append(Row(study.name, [first, record["word"], f"{record['minutes']:.0f}", claim.sentence]))
            reports.append((study.name, f"{slug(study.name)}/report.html"))
        else:
            expected = "" if claim.minutes is None else f"about {claim.minutes:g}"
            untested.append(Row(study.name, [first_word(study) or NONE, "not tested yet", expected, claim.sentence]))
    columns = ["Claim", "First word", "Word", "Minutes", "Sentence"]
    left = ["First word", "Word", "Sentence"]
    table = Table("Claims", columns, [*rows, *untested], left=left, wrapped=["Sentence"])
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    document = Document(
        title="Claims, re-tested",
        kicker=f"{counted(len(studies), 'claim')} · {time.strftime('%Y-%m-%d')}",
        heading=f"{counted(len(words), 'claim')} tested: {joined(counts)}" if words else "No claim tested yet",
        lead=[LEAD],
        remarks=[],
        sections=[Section("All claims", [table]), *([Section("Reports", [Links(reports)])] if reports else [])],
    )
    root.mkdir(parents=True, exist_ok=True)
    return write_document(document, root)
