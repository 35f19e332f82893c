"""The record of each look at a study's test results, `looks.jsonl` in the study's folder.

Whoever looks more often, or extends a list of seeds after a look, finds more leads by chance.
"""

import json
import time
from pathlib import Path
from typing import Any

from vitlab.studies.report.verdict_file import as_record
from vitlab.studies.results import StudyResults


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """Return the looks so far, the first one first."""
    path = folder / "looks.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append_look(results: StudyResults, folder: Path) -> None:
    """Record what a look shows."""
    look = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **as_record(results)}
    with (folder / "looks.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(look, ensure_ascii=False, allow_nan=False) + "\n")


def look_of(results: StudyResults) -> str:
    """Return which look this is, like "Look 4 of at most 7"; empty for a fixed list of seeds."""
    if results.watch is None:
        return ""
    return f"Look {len(results.watch.looks)} of at most {len(results.study.looks)}"
