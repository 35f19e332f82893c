"""What runs there are below a folder: found by their files, and read without torch and without parsing YAML, which
would take seconds for a thousand of them."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vitlab.atomic_files import read_cache
from vitlab.runs.lock import Busy, check_idle

MARKS = {"config.yaml", "environment.json"}  # together only in a run directory

# `fit` writes config.yaml, so each key has its place.
OBJECTIVE = re.compile(r"^model:\n  class_path: (?:\S+\.)?(\w+)", re.MULTILINE)
BACKBONE = re.compile(
    r"^    backbone:\n      class_path: (?:\S+\.)?(\w+)(?:\n      init_args:\n(?:        .*\n)*?        name: (\S+))?",
    re.MULTILINE,
)
EPOCHS = re.compile(r"^  max_epochs: (\d+)", re.MULTILINE)
STUDY = re.compile(r"^    group: (?!null$)(.*)", re.MULTILINE)


def run_directories(root: Path) -> Iterator[Path]:
    """Yield the run directories at and below a folder; hidden folders and links are passed over."""
    with os.scandir(root) as found:
        entries = list(found)
    if {entry.name for entry in entries} >= MARKS:
        yield root
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
            yield from run_directories(root / entry.name)


@dataclass(frozen=True)
class RunEntry:
    """A run as a list shows it."""

    directory: Path

    @cached_property
    def config(self) -> str:
        """The text of config.yaml."""
        return (self.directory / "config.yaml").read_text(encoding="utf-8", errors="replace")

    @cached_property
    def summary(self) -> dict[str, Any] | None:
        """summary.json; None where it is missing or damaged."""
        summary: dict[str, Any] | None = read_cache(self.directory / "summary.json", None)
        return summary

    @property
    def status(self) -> str:
        """What `fit` would find."""
        try:
            check_idle(self.directory)
        except Busy:
            return "being written"
        if self.summary is None:
            return "damaged" if (self.directory / "summary.json").exists() else "unfinished"
        return "partial" if self.summary.get("partial") else "finished"

    @property
    def model(self) -> str:
        """Objective and backbone, which for a timm model is timm's name."""
        objective, backbone = OBJECTIVE.search(self.config), BACKBONE.search(self.config)
        return f"{objective[1] if objective else '?'} {backbone[2] or backbone[1] if backbone else '?'}"

    @property
    def epochs(self) -> str:
        """Those done, of how many; of a run by steps only the first."""
        done = self.summary["epochs"] if self.summary else self._epochs_logged()
        planned = EPOCHS.search(self.config)
        return f"{done}/{planned[1]}" if planned else f"{done}"

    def _epochs_logged(self) -> int:
        try:
            last = (self.directory / "metrics.csv").read_bytes().splitlines()[-1]
            return int(last.split(b",")[1]) + 1
        except (OSError, IndexError, ValueError):  # before the first row, or cut within one
            return 0

    @property
    def metric(self) -> str:
        """The result: accuracy or else the first metric of the test; without a test the validation's, or the loss."""
        metrics = self.summary["metrics"] if self.summary else {}
        tested = [name for name in metrics if name.startswith("test/") and name not in ("test/ece", "test/loss")]
        ranked = ["test/top1", *tested, "val/top1", "val/knn", "val/loss", "train/loss"]
        name = next((name for name in ranked if name in metrics), None)
        return f"{name} {metrics[name]:.4f}" if name else ""

    @property
    def study(self) -> str:
        """The study that trained it; empty for a run of its own."""
        found = STUDY.search(self.config)
        return found[1].strip("'\"") if found else ""

    @cached_property
    def disk(self) -> tuple[int, float]:
        """Bytes of all files, and when the last of them was written."""
        files = [Path(folder, name).lstat() for folder, _, names in os.walk(self.directory) for name in names]
        return sum(file.st_size for file in files), max(file.st_mtime for file in files)
