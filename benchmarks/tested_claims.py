"""Test the claims of a folder, what is missing of them, and write one page about all; or check a new one.

    python -m benchmarks.tested_claims                        # make claims: experiments/claims, the cheapest first
    python -m benchmarks.tested_claims --check my_claim.yaml  # source, published figures, registration, seeds, margin

Each claim is a study, which `compare` runs; the page is written after each.
"""

import math
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from referee.claim import CONTRADICTED, EQUAL, NOT_TESTED, OPEN, REPEATED
from referee.formats import NONE, SPACE, counted, joined, listed, shown_p
from referee.report.document import Document, Heading, Links, Part, Row, Section, Table, Text, write_document
from referee.statistics.contrast import LEVEL
from scipy.stats import false_discovery_control

from benchmarks.measuring import parser_of
from vitlab.atomic_files import read_json
from vitlab.commands.options import quiet
from vitlab.config import load_yaml
from vitlab.studies.compare import RunsFailed, compare
from vitlab.studies.file.registration import first_word, record_of
from vitlab.studies.file.study import LIKE, Study, read_study, slug
from vitlab.studies.planning import plan_study

MOST_SEEDS = 50  # of each variant; a claim that takes more is not decided in an afternoon
PLACE = re.compile(r"\b(tables?|tab\.|figures?|fig\.|sections?|sec\.|appendix|equations?|eq\.)\s*\w", re.IGNORECASE)
PAGE = re.compile(r"\b(pages?|pp?\.)\s*\d", re.IGNORECASE)
WHERE = re.compile(r"arxiv|doi|https?://", re.IGNORECASE)
WORDS = (REPEATED, CONTRADICTED, EQUAL, OPEN, NOT_TESTED)
LEAD = (
    "Each claim of a paper is a study with several seeds. Its word follows from intervals over seeds, of accuracies "
    "over test images too. Repeated: what the claim expects is so here, beyond chance. Contradicted: the opposite is. "
    "Equal within the margin: a difference that matters is excluded. Not settled: none of these. Not tested: the runs "
    "lack what the claim needs. The first word is the one recorded first; record.json beside the study has all, with "
    "the settings and seeds of each registration. A word is about the data and the budget that the claim's report "
    "names, not about the paper's own."
)


def read_claims(folder: Path) -> list[Study]:
    """Return the studies of a folder that test a claim, the cheapest first."""
    found = (read_study(path) for path in sorted(folder.glob("*.yaml")) if {"claim", LIKE} & load_yaml(path).keys())
    studies = [study for study in found if study.claim]
    if not studies:
        raise ValueError(f"{folder} has no study with a `claim`. docs/claims.md explains how to write one.")
    return sorted(studies, key=lambda study: math.inf if study.claim.minutes is None else study.claim.minutes)


def is_tested(study: Study, root: Path) -> bool:
    """Whether the study ended with the settings that its files have now."""
    record = record_of_runs(study, root)
    return bool(record) and record["ended"] and record.get("files") == study.digest


def record_of_runs(study: Study, root: Path) -> dict[str, Any]:
    """Return what the study's report wrote; empty before."""
    return read_json(root / slug(study.name) / "claim.json", missing={})


def write_page(studies: Sequence[Study], root: Path) -> Path:
    """Write report.html and report.md about the claims, the most surprising first; return the path of the first."""
    tested = [(study, record_of_runs(study, root)) for study in studies if is_tested(study, root)]
    tested.sort(key=lambda each: _surprise(each[1]))
    known = [record["p"] for _, record in tested if record.get("p") is not None]
    adjusted = dict(zip(known, false_discovery_control(known), strict=True)) if known else {}
    rows = []
    for study, record in tested:
        p = record.get("p")
        shown = [NONE, NONE] if p is None else [shown_p(p), shown_p(adjusted[p])]
        short = [word.removesuffix(" within the margin") for word in (record["word"], first_word(study) or NONE)]
        rows.append(Row(study.name, [study.claim.sentence, *short, *shown]))
    for study in studies:
        if not is_tested(study, root):  # a look before the last has no word yet
            state = "not finished" if record_of_runs(study, root) else "not tested yet"
            rows.append(Row(study.name, [study.claim.sentence, state, first_word(study) or NONE]))
    columns = ["Claim", "Sentence", "Word", "First word", "p", "p of all"]
    table = Table("Claims", columns, rows, ["Sentence", "Word", "First word"], ["Sentence"])
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
    """Return the place in an order: what speaks against a paper comes first, and of that the least likely."""
    order = (CONTRADICTED, EQUAL, OPEN, NOT_TESTED, REPEATED)
    p = record.get("p")
    return order.index(record["word"]), 1.0 if p is None else p if record["word"] in (CONTRADICTED, EQUAL) else -p


def _parts(study: Study, record: dict[str, Any]) -> list[Part]:
    """Return what was published, what is so here, and what would change the word, with the figure and the report."""
    claim, place = study.claim, slug(study.name)
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


class Check(NamedTuple):
    passed: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.passed else 'NO '} {self.text}"


def checks(path: Path, root: Path) -> list[Check]:
    """Check the claim of a study; nothing is trained or written."""
    study, found = read_study(path), []
    if study.claim is None:
        raise ValueError(f"{path} has no `claim`. docs/claims.md explains how to write one.")
    for pattern, what in ((PLACE, "table, figure or section"), (PAGE, "page"), (WHERE, "arXiv number, DOI or address")):
        has = bool(pattern.search(study.claim.source))
        found.append(Check(has, f"source: {'has' if has else 'add'} the {what}"))

    published, sign = study.claim.published, -1 if study.metric and study.metric["mode"] == "min" else 1
    for first, relation, second in study.claim.relations:
        if missing := [name for name in (first, second) if name not in published]:
            found.append(Check(False, f"published: add the figure of {missing[0]}, as printed"))
            continue
        agrees = relation != ">" or sign * (published[first] - published[second]) > 0
        figures = f"{first} {published[first]:g}, {second} {published[second]:g}"
        found.append(
            Check(agrees, f"published: {figures}" + ("" if agrees else f" are not {first} {relation} {second}"))
        )

    record = record_of(study)
    known = bool(record) and record[-1]["digest"] == study.digest
    registered = f"registered on {record[-1]['registered']}" if known else "register it: `compare` does, first"
    earlier = record[:-1] if known else record
    used = sorted({seed for each in earlier if each["words"] for seed in each["seeds"]} & {*study.seeds})
    seen = f"seeds {listed([*map(str, used)])} have results that were seen; give new ones"
    new = f"seeds {study.seeds[0]} to {study.seeds[-1]} are new"
    found += [Check(known, registered), Check(not used, seen if used else new)]

    margin = f"margin {study.margin:g}: "
    try:
        planned = plan_study(path, root)
        takes = planned.need(planned.metric.own(study.margin))
    except ValueError as unknown:  # how a metric of its own varies
        return [*found, Check(False, margin + " ".join(str(unknown).removeprefix(f"{path}: ").split()))]
    if takes.images is not None:
        return [*found, Check(False, f"{margin}too small for the test images; take more, or another")]
    seeds, basis = takes.seeds.point, "before any run"
    if planned.finished:
        basis = f"by {counted(planned.finished, 'finished run')}"
    needs = f"over {MOST_SEEDS}" if seeds is None else counted(seeds, "seed")
    passed = seeds is not None and seeds <= MOST_SEEDS
    much = "" if passed else f"; at most {MOST_SEEDS}: take a larger margin, or trainings whose seeds agree"
    return [*found, Check(passed, f"{margin}takes {needs} of each variant, {basis}{much}")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("tested_claims", __doc__)
    parser.add_argument("--folder", type=Path, default=Path("experiments/claims"), help="[experiments/claims]")
    parser.add_argument("--root", type=Path, default=Path("runs/claims"), help="folder of runs and page [runs/claims]")
    parser.add_argument("--check", type=Path, metavar="FILE", help="check a new claim, and train nothing")
    options = parser.parse_args(arguments)
    quiet()
    if options.check:
        found = checks(options.check, options.root)
        print(*found, sep="\n")
        return 0 if all(check.passed for check in found) else 1
    studies, failed = read_claims(options.folder), False
    for number, study in enumerate(studies, start=1):
        if not is_tested(study, options.root):
            print(f"Claim {number} of {len(studies)}: {study.path}", flush=True)
            try:
                compare(study.path, options.root)
            except (RunsFailed, ValueError, FileNotFoundError) as error:  # the others can still be tested
                failed = True
                print(error, file=sys.stderr)
        page = write_page(studies, options.root)
    print(f"The page: {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
