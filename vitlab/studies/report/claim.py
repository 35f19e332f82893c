"""The record of the claim that a study tests, for the page about all claims."""

import json
from pathlib import Path

from referee.report.claim import about, caption, deciding, word_of
from referee.report.drawing import Drawing

from vitlab.atomic_files import write_text
from vitlab.studies.report.verdict import judged, outlooks, runs_at_once
from vitlab.studies.results import StudyResults


def write_claim(results: StudyResults, drawing: Drawing, folder: Path) -> None:
    """Write claim.json into the folder of a study that tests a claim."""
    claim, verdict = results.study.claim, judged(results)
    assert claim is not None
    seconds = sum(result.summary.get("wall_seconds", result.seconds) for result in results.finished)
    word = word_of(claim, verdict)
    record = {
        "word": word,
        "files": results.study.digest,
        "ended": not results.failures and (results.watch is None or results.watch.stop is not None),
        "minutes": seconds / 60 / runs_at_once(results),
        "deciding": deciding(claim, verdict),
        "text": [f"In one word: {word}.", f"All variants: {verdict.sentence}", *about(claim), *outlooks(results)],
        "caption": caption(claim),
        "wide": drawing.wide,
        "narrow": drawing.narrow,
    }
    write_text(folder / "claim.json", json.dumps(record, ensure_ascii=False))
