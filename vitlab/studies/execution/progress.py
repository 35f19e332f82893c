"""How far the runs of a study are, read from their metrics.csv, and one line for each on the screen."""

import csv
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TextIO

from vitlab.studies.format import clock
from vitlab.studies.study import Run

TAIL_BYTES = 65_536  # enough for the last epoch of any run, and quick to read every second
PLAIN_INTERVAL = 60.0  # seconds between progress lines where nothing can be rewritten in place


class Progress(NamedTuple):
    """Where a run stands: completed epochs and the last accuracy on the validation split."""

    epochs: int
    top1: float | None


@dataclass
class Active:
    """A run in progress, as the display sees it."""

    run: Run
    epochs_before: int  # completed by an earlier start
    progress: Progress
    seconds: float = 0.0

    @property
    def seconds_per_epoch(self) -> float | None:
        """Measured in this start; None until the first epoch is over."""
        gained = self.progress.epochs - self.epochs_before
        return self.seconds / gained if gained > 0 else None


def read_progress(metrics: Path) -> Progress:
    """Read the end of a metrics.csv that another process is writing."""
    try:
        with metrics.open("rb") as file:
            header = file.readline().decode("utf-8")
            file.seek(max(file.tell(), metrics.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="ignore").splitlines()
    except FileNotFoundError:
        return Progress(0, None)
    width = header.count(",")
    epochs, top1 = 0, None
    for row in csv.DictReader([header, *(line for line in lines if line.count(",") == width)]):
        epoch = int(float(row.get("epoch") or 0))
        if row.get("val/top1"):
            epochs, top1 = max(epochs, epoch + 1), float(row["val/top1"])
        else:
            epochs = max(epochs, epoch)
    return Progress(epochs, top1)


def seconds_left(
    finished: Sequence[tuple[Run, float]], active: Sequence[Active], waiting: Sequence[Run], jobs: int
) -> float | None:
    """Estimate the time until all runs are over, from the seconds an epoch of each variant takes.

    A variant without a completed epoch is taken to be as fast as the mean of the others; None before the first epoch.
    """
    speeds: dict[str, list[float]] = {}
    for run, seconds in finished:
        speeds.setdefault(run.variant, []).append(seconds / run.epochs)
    for item in active:
        if item.seconds_per_epoch is not None:
            speeds.setdefault(item.run.variant, []).append(item.seconds_per_epoch)
    if not speeds:
        return None
    speed = {variant: fmean(values) for variant, values in speeds.items()}
    typical = fmean(speed.values())

    remaining = [(a.run.epochs - a.progress.epochs) * speed.get(a.run.variant, typical) for a in active]
    queued = sum(run.epochs * speed.get(run.variant, typical) for run in waiting)
    return max(max(remaining, default=0.0), (sum(remaining) + queued) / jobs)


class Display(ABC):
    """Shows runs as they go; `total` and `width` (of a run's name) are for the layout."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        self.stream = stream
        self.total = len(runs)
        self.width = max(len(str(run)) for run in runs)

    @abstractmethod
    def note(self, text: str) -> None:
        """Print something that stays."""

    @abstractmethod
    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
        """Show the runs in progress, how many are over, and the time left."""

    def line(self, item: Active) -> str:
        """Describe one run in progress."""
        top1 = f"val {100 * item.progress.top1:5.1f} %" if item.progress.top1 is not None else " " * 11
        epochs = f"epoch {item.progress.epochs:>{len(str(item.run.epochs))}}/{item.run.epochs}"
        return f"{item.run!s:<{self.width}}  {epochs}  {top1}  {clock(item.seconds)}"

    def summary(self, over: int, left: float | None) -> str:
        """Describe the whole study."""
        return f"{over} of {self.total} runs done" + (f", about {clock(left)} left" if left is not None else "")


class TerminalDisplay(Display):
    """Rewrites its last lines in place."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        super().__init__(stream, runs)
        self._shown = 0  # lines that the next update replaces

    def note(self, text: str) -> None:
        self._erase()
        print(text, file=self.stream, flush=True)

    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
        self._erase()
        columns = shutil.get_terminal_size().columns - 1  # a line that wraps could not be counted
        lines = [*(f"  {self.line(item)}" for item in active), f"  {self.summary(over, left)}"]
        print("\n".join(line[:columns] for line in lines), file=self.stream, flush=True)
        self._shown = len(lines)

    def _erase(self) -> None:
        if self._shown:
            print(f"\x1b[{self._shown}A\x1b[J", end="", file=self.stream)
        self._shown = 0


class PlainDisplay(Display):
    """Appends lines, for log files: each run once a minute."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        super().__init__(stream, runs)
        self._printed: dict[Run, float] = {}

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
        for item in active:
            if item.seconds - self._printed.get(item.run, 0.0) >= PLAIN_INTERVAL:
                self._printed[item.run] = item.seconds
                self.note(f"  {self.line(item)}  ({self.summary(over, left)})")


def display_for(runs: Sequence[Run], stream: TextIO | None = None) -> Display:
    """Return the display that suits the stream (standard output unless given)."""
    stream = stream or sys.stdout
    return TerminalDisplay(stream, runs) if stream.isatty() else PlainDisplay(stream, runs)
