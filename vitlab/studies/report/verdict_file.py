"""The verdict of a study for other programs: `verdict.json`, whose keys docs/studies.md lists, and `claim.json`."""

import json
from pathlib import Path
from typing import Any

from referee.claim import p_of_claim
from referee.report.claim import deciding
from referee.verdict import VOID

from vitlab.atomic_files import write_text
from vitlab.studies.file.registration import keep_word
from vitlab.studies.report.remarks import objections, remarks
from vitlab.studies.report.verdict import judged, runs_at_once
from vitlab.studies.results.table import StudyResults


def write_verdict(results: StudyResults, folder: Path) -> None:
    """Write verdict.json into a study's folder."""
    record = as_record(results) | {"looks": results.log, "remarks": remarks(results)}
    write_text(folder / "verdict.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_claim(results: StudyResults, folder: Path) -> None:
    """Write claim.json into the folder of a study that tests a claim, for the page about all claims."""
    claim, verdict = results.study.claim, judged(results)
    assert claim is not None
    is_tested = verdict.verdict != VOID and not verdict.design.unmet
    seconds = sum(result.summary.get("wall_seconds", result.seconds) for result in results.finished)
    record = {
        "word": verdict.word,
        "p": p_of_claim(verdict.relations) if verdict.relations and is_tested else None,
        "here": [f"{order}: {lead} {interval}" for order, lead, interval, *_ in deciding(claim, verdict)],
        "files": results.study.digest,
        "ended": not results.failures and (results.verdict.watch is None or results.verdict.watch.stop is not None),
        "minutes": seconds / 60 / runs_at_once(results),
    }
    write_text(folder / "claim.json", json.dumps(record))
    keep_word(results.study, record["word"], [len(result.runs) for result in results.ranking], record["ended"])


def as_record(results: StudyResults) -> dict[str, Any]:
    """Return the verdict in plain values; scores and differences as the report shows them, accuracies in per cent."""
    verdict, study, looks = judged(results), results.study, len(results.earlier_plans) + 1
    record, claim = verdict.record(), study.claim
    return {
        "study": study.name,
        "headline": record["headline"],
        "verdict": record["verdict"],
        "claim": None if claim is None else {"sentence": claim.sentence, "word": verdict.word},
        **{key: record[key] for key in ("metric", "test", "level")},
        "margin": study.margin,
        "look": record["look"] if results.verdict.watch else looks,
        "of": len(study.looks) or looks,
        "stop": record["stop"],
        "seeds": study.seeds,
        "variants": record["variants"],
        "pairs": [{key: pair[key] for key in pair if key != "beats_in_one_more_run"} for pair in record["pairs"]],
        "objections": objections(results),
        "failures": {str(run): why for run, why in results.failures},
    }
