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


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """Return the looks so far, the first one first, without a last line that was cut off.

    Raises:
        ValueError: another line is damaged; the message names it.
    """
    return [json.loads(line) for line in _whole_lines(folder / FILE)[0]]


def append_look(results: StudyResults, folder: Path) -> None:
    """Record what a look shows; the last look again, by a study that is started anew, is none."""
    path = folder / FILE
    lines, cut = _whole_lines(path)
    look = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **as_record(results)}
    line = json.dumps(look, ensure_ascii=False, allow_nan=False)
    is_new = not lines or json.loads(lines[-1]) | {"time": None} != json.loads(line) | {"time": None}
    if is_new:
        lines.append(line)
    if cut:
        print(f"{path}: its last line was cut off, and is dropped.", flush=True)
    if is_new or cut:
        write_text(path, "".join(f"{line}\n" for line in lines))


def _whole_lines(path: Path) -> tuple[list[str], bool]:
    """Return the lines of the file, and whether one more was cut off: a full disk ends a line before its newline."""
    *lines, last = path.read_bytes().split(b"\n") if path.is_file() else [b""]
    cut = last != b"" and not _is_look(last)
    if last and not cut:
        lines.append(last)
    for number, line in enumerate(lines, 1):
        if not _is_look(line):
            raise ValueError(
                f"{path}, line {number} is damaged. Delete this line, and give the same command again; the study then "
                "does not know that it looked at its results there."
            )
    return [line.decode() for line in lines], cut


def _is_look(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:  # of JSON or of UTF-8
        return False


def look_of(results: StudyResults) -> str:
    """Return which look this is, like "Look 4 of at most 7"; empty for a fixed list of seeds."""
    if results.watch is None:
        return ""
    return f"Look {len(results.watch.looks)} of at most {len(results.study.looks)}"
