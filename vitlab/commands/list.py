"""List the runs below a folder: status, model, epochs, result, size on disk, study, and when each was last written.

YAML is not parsed, which would take seconds for a thousand runs.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from vitlab.atomic_files import regular
from vitlab.commands.options import StudyParser
from vitlab.runs.directory import CONFIG, METRICS, RunDirectory, run_directories

COLUMNS = ("run", "status", "model", "epochs", "result", "MB", "study", "written")

# `fit` writes config.yaml, so each key has its place.
OBJECTIVE = re.compile(r"^model:\n  class_path: (?:\S+\.)?(\w+)", re.MULTILINE)
BACKBONE = re.compile(
    r"^    backbone:\n      class_path: (?:\S+\.)?(\w+)(?:\n      init_args:\n(?:        .*\n)*?        name: (\S+))?",
    re.MULTILINE,
)
EPOCHS = re.compile(r"^  max_epochs: (\d+)", re.MULTILINE)
STUDY = re.compile(r"^    group: (?!null$)(.*)", re.MULTILINE)


def run(arguments: Sequence[str]) -> int:
    """Print a line for each run."""
    parser = StudyParser("python -m vitlab list", "List the runs below a folder, one line each.")
    parser.add_argument("root", nargs="?", type=Path, default=Path("runs"), help="folder of runs [runs]")
    root = parser.parse_args(arguments).root
    if not root.is_dir():
        raise FileNotFoundError(
            f"there is no folder {root}. Give one that has runs in it: python -m vitlab list FOLDER"
        )

    runs = [RunDirectory(directory) for directory in sorted(run_directories(root), key=_by_number)]
    if not runs:
        print(f"No runs below {root}.")
        return 0
    rows = [COLUMNS, *map(_row, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(w) if name in ("epochs", "MB") else text.ljust(w)
            for name, text, w in zip(COLUMNS, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
    count = "1 run" if len(runs) == 1 else f"{len(runs):,} runs"
    print(f"{count}, {sum(run.size for run in runs) / 1e6:,.1f} MB")
    return 0


def _row(run: RunDirectory) -> tuple[str, ...]:
    config = (run.path / CONFIG).read_text(encoding="utf-8", errors="replace")
    status, summary = _state(run)
    written = datetime.fromtimestamp(run.written).strftime("%Y-%m-%d %H:%M")
    done, planned = summary.get("epochs", _epochs_logged(run)), EPOCHS.search(config)
    epochs = f"{done}/{planned[1]}" if planned else f"{done}"  # of a run by steps only the first
    study = STUDY.search(config)
    known = str(run.path), status, _model(config), epochs, _result(summary.get("metrics", {}))
    return *known, f"{run.size / 1e6:,.1f}", study[1].strip("'\"") if study else "", written


def _state(run: RunDirectory) -> tuple[str, dict[str, Any]]:
    """Return what `fit` would find, and the summary, where it can be read."""
    try:
        summary = run.summary
        status = "partial" if run.shortfalls else "finished"
    except (FileNotFoundError, ValueError):
        summary, status = {}, "damaged" if run.is_finished else "unfinished"
    return "being written" if run.writer else status, summary


def _model(config: str) -> str:
    """Return objective and backbone, which for a timm model is timm's name."""
    objective, backbone = OBJECTIVE.search(config), BACKBONE.search(config)
    return f"{objective[1] if objective else '?'} {backbone[2] or backbone[1] if backbone else '?'}"


def _epochs_logged(run: RunDirectory) -> int:
    try:
        last = regular(run.path / METRICS).read_bytes().splitlines()[-1]
        return int(last.split(b",")[1]) + 1
    except (OSError, IndexError, ValueError):  # before the first row, or cut within one
        return 0


def _result(metrics: dict[str, float]) -> str:
    """Return accuracy, or else the first metric of the test; without a test the validation's, or the loss."""
    tested = [name for name in metrics if name.startswith("test/") and name not in ("test/ece", "test/loss")]
    ranked = ["test/top1", *tested, "val/top1", "val/knn", "val/loss", "train/loss"]
    name = next((name for name in ranked if name in metrics), None)
    return f"{name} {metrics[name]:.4f}" if name else ""


def _by_number(path: Path) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]
