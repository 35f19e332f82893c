"""List the runs below a folder: status, model, epochs, result, size on disk, study, and when each was last written."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from vitlab.commands.options import StudyParser
from vitlab.runs.inventory import RunEntry, run_directories

COLUMNS = ("run", "status", "model", "epochs", "result", "MB", "study", "written")


def run(arguments: Sequence[str]) -> int:
    """Print a line for each run."""
    parser = StudyParser("python -m vitlab list", "List the runs below a folder, one line each.")
    parser.add_argument("root", nargs="?", type=Path, default=Path("runs"), help="folder of runs [runs]")
    root = parser.parse_args(arguments).root
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}. Give one that has runs in it: python -m vitlab list FOLDER"
        )

    entries = [RunEntry(directory) for directory in sorted(run_directories(root), key=_by_number)]
    if not entries:
        print(f"No runs below {root}.")
        return 0
    rows = [COLUMNS, *map(_row, entries)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(w) if name in ("epochs", "MB") else text.ljust(w)
            for name, text, w in zip(COLUMNS, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
    count = "1 run" if len(entries) == 1 else f"{len(entries):,} runs"
    print(f"{count}, {sum(entry.disk[0] for entry in entries) / 1e6:,.1f} MB")
    return 0


def _row(entry: RunEntry) -> tuple[str, ...]:
    size, written = entry.disk
    when = datetime.fromtimestamp(written).strftime("%Y-%m-%d %H:%M")
    known = entry.status, entry.model, entry.epochs, entry.metric
    return str(entry.directory), *known, f"{size / 1e6:,.1f}", entry.study, when


def _by_number(path: Path) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
