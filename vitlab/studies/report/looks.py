"""The record of each look at a study's test results, `looks.jsonl` in the study's folder.

Whoever looks more often, or extends a list of seeds after a look, finds more leads by chance.
"""

import json
import time
from pathlib import Path
from typing import Any

from vitlab.atomic_files import write_text
from vitlab.studies.report.verdict_file import as_record
from vitlab.studies.results.table import StudyResults

FILE = "looks.jsonl"
KEYS = {"time", "seeds", "stop", "variants"}


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """Return the looks so far, the first one first.

    Raises:
        ValueError: a line is damaged; the message names it.
    """
    path, looks = folder / FILE, []
    for number, line in enumerate(path.read_bytes().splitlines() if path.is_file() else [], 1):
        try:
            looks.append(json.loads(line))
            if not (isinstance(looks[-1], dict) and looks[-1].keys() >= KEYS):
                raise ValueError("no look")
        except (ValueError, RecursionError):  # of JSON, of UTF-8, or another's
            raise ValueError(
                f"{path}, line {number} is damaged. Delete this line, and give the same command again; the study then "
                "does not know that it looked at its results there."
            ) from None
    return looks


def append_look(results: StudyResults, folder: Path) -> None:
    """Record what a look shows; the last look again, by a study that is started anew, is none."""
    looks = read_looks(folder)
    look = json.loads(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **as_record(results)}))
    if not looks or looks[-1] | look != looks[-1] | {"time": look["time"]}:  # earlier versions recorded more
        lines = [json.dumps(each, ensure_ascii=False, allow_nan=False) for each in (*looks, look)]
        write_text(folder / FILE, "".join(f"{line}\n" for line in lines))


def look_of(results: StudyResults) -> str:
    """Return which look this is, like "Look 4 of at most 7"; empty for a fixed list of seeds."""
    if results.verdict.watch is None:
        return ""
    return f"Look {len(results.verdict.watch.looks)} of at most {len(results.study.looks)}"
