"""A folder of claims: the studies that test them, and one page with the word of each."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from referee.claim import NOT_TESTED, Claim
from referee.formats import NONE, SPACE, counted, joined, p_value
from referee.report.document import Document, Heading, Links, Part, Row, Section, Table, Text, write_document
from referee.statistics.comparison import LEVEL
from referee.statistics.relations import CONTRADICTED, EQUAL, OPEN, REPEATED
from scipy.stats import false_discovery_control

from vitlab.atomic_files import read_json
from vitlab.config import load_yaml
from vitlab.studies.file.content import LIKE
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
    found = (read_study(path) for path in sorted(folder.glob("*.yaml")) if {"claim", LIKE} & load_yaml(path).keys())
    studies = [study for study in found if study.claim]
    if not studies:
        raise ValueError(f"{folder} has no study with a `claim`. docs/claims.md explains how to write one.")
    return sorted(studies, key=lambda study: math.inf if (minutes := _claim(study).minutes) is None else minutes)


def _claim(study: Study) -> Claim:
    assert study.claim is not None
    return study.claim


def is_tested(study: Study, root: Path) -> bool:
    """Whether the study ended with the settings that its files have now."""
    return _has_word(study, _record(study, root))


def _has_word(study: Study, record: dict[str, Any]) -> bool:
    return bool(record) and record["ended"] and record.get("files") == study.digest


def _record(study: Study, root: Path) -> dict[str, Any]:
    """Return what the study's report wrote; empty before."""
    return read_json(root / slug(study.name) / "claim.json", missing={})


def write_page(studies: Sequence[Study], root: Path) -> Path:
    """Write report.html and report.md about the claims, the most surprising first; return the path of the first."""
    both = [(study, _record(study, root)) for study in studies]
    tested = sorted((each for each in both if _has_word(*each)), key=lambda each: _surprise(each[1]))
    others = [each for each in both if each not in tested]
    known = [record["p"] for _, record in tested if record.get("p") is not None]
    adjusted = dict(zip(known, false_discovery_control(known), strict=True)) if known else {}
    rows = []
    for study, record in tested:
        p = record.get("p")
        shown = [NONE, NONE] if p is None else [p_value(p), p_value(adjusted[p])]
        short = [word.removesuffix(" within the margin") for word in (record["word"], first_word(study) or NONE)]
        rows.append(Row(study.name, [_claim(study).sentence, *short, *shown]))
    for study, record in others:
        state = "not finished" if record else "not tested yet"  # a look before the last has no word yet
        rows.append(Row(study.name, [_claim(study).sentence, state, first_word(study) or NONE]))
    columns = ["Claim", "Sentence", "Word", "First word", "p", "p of all"]
    table = Table("Claims", columns, rows, ["Sentence", "Word", "First word"], ["Sentence"], labeled=True)
    words = [record["word"] for _, record in tested]
    counts = [f"{words.count(word)} {word}" for word in WORDS if word in words]
    document = Document(
        title="Claims, re-tested",
        kicker=f"{counted(len(studies), 'claim')} · {time.strftime('%Y-%m-%d')}",
        heading=f"{counted(len(words), 'claim')} tested: {joined(counts)}" if words else "No claim tested yet",
        lead=[LEAD, *_expected(tested, adjusted)],
        remarks=[],
        sections=[
            Section("All claims", [table]),
            *([Section("Each claim", [part for each in tested for part in _parts(*each)])] if tested else []),
        ],
    )
    root.mkdir(parents=True, exist_ok=True)
    return write_document(document, root)


def _surprise(record: dict[str, Any]) -> tuple[int, float]:
    """Return a place in the order: what speaks against a paper comes first, and of that the least likely."""
    order = (CONTRADICTED, EQUAL, OPEN, NOT_TESTED, REPEATED)
    p = record.get("p")
    return order.index(record["word"]), 1.0 if p is None else p if record["word"] in (CONTRADICTED, EQUAL) else -p


def _parts(study: Study, record: dict[str, Any]) -> list[Part]:
    """Return what was published, what is so here, and what would change the word, with the figure and the report."""
    claim, place = _claim(study), slug(study.name)
    published = ", ".join(f"{variant} {value:g}" for variant, value in claim.published.items())
    minutes = f"The report of {study.name}, {record['minutes']:.0f} minutes"
    return [
        Heading(f"{claim.sentence.rstrip('.')}: {record['word']}"),
        *([Text(f"Published: {published}.")] if published else []),
        *([Text(f"Here, lead of the first [95{SPACE}%]: {'; '.join(record['here'])}.")] if "here" in record else []),
        Text(f"What would change the word: {claim.doubt}"),
        Links([(minutes, f"{place}/report.html")], [f"{place}/figures/claim.png"]),
    ]


def _expected(tested: Sequence[tuple[Study, dict[str, Any]]], adjusted: dict[float, float]) -> list[str]:
    """Return how many of the words that are settled may be wrong."""
    settled = [record for _, record in tested if record["word"] in (REPEATED, CONTRADICTED, EQUAL)]
    if not settled:
        return []
    weak = sum(record.get("p") is not None and adjusted[record["p"]] >= LEVEL for record in settled)
    which = f"That of {counted(weak, 'settled word')} is larger" if weak else "That of no settled word is larger"
    return [
        f"{counted(len(settled), 'word')} of {len(tested)} are settled. Each claim alone is settled wrongly in at most "
        f"{100 * LEVEL:.0f}{SPACE}% of cases, so at most {LEVEL * len(tested):.1f} wrong ones are expected among them. "
        f"“p of all” is adjusted for the number of claims (Benjamini and Hochberg): where it is below {LEVEL:g}, at "
        f"most one word of twenty is expected to be wrong. {which}."
    ]
