"""The record of the claim that a study tests, for the page about all claims."""

import json
from pathlib import Path

from vitlab.atomic_files import write_text
from vitlab.studies.report.verdict import judged, runs_at_once
from vitlab.studies.results.table import StudyResults


def write_claim(results: StudyResults, folder: Path) -> None:
    """Write claim.json into the folder of a study that tests a claim."""
    assert results.study.claim is not None
    seconds = sum(result.summary.get("wall_seconds", result.seconds) for result in results.finished)
    record = {
        "word": judged(results).word,
        "files": results.study.digest,
        "ended": not results.failures and (results.watch is None or results.watch.stop is not None),
        "minutes": seconds / 60 / runs_at_once(results),
    }
    write_text(folder / "claim.json", json.dumps(record))
