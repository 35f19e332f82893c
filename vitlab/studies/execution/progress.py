"""Progress of a study's runs, read from their metrics.csv and shown in one line per run."""

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

TAIL_BYTES = 65_536  # contains the last epoch of any run, and is read quickly
PLAIN_INTERVAL = 60.0  # seconds between progress lines in a log file


class Progress(NamedTuple):
    """The progress of a run: completed epochs and the last validation accuracy."""

    epochs: int
    top1: float | None


@dataclass
class Active:
    """A run in progress."""

    run: Run
    epochs_before: int  # completed before this start
    progress: Progress
    seconds: float = 0.0

    @property
    def seconds_per_epoch(self) -> float | None:
        """Measured since this start; None during the first epoch."""
        gained = self.progress.epochs - self.epochs_before
        return self.seconds / gained if gained > 0 else None


def read_progress(metrics: Path) -> Progress:
    """Read the progress from a metrics.csv that another process is writing."""
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
    """Estimate the time until all runs are finished, from the seconds per epoch of each variant.

    A variant without a completed epoch is assumed as fast as the mean of the others; None before the first epoch.
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
    """Shows the progress of runs; `total` and `width` (of a run's name) are for the layout."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        self.stream = stream
        self.total = len(runs)
        self.width = max(len(str(run)) for run in runs)

    @abstractmethod
    def note(self, text: str) -> None:
        """Print a permanent line."""

    @abstractmethod
    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
        """Show the runs in progress, the number of finished ones, and the time left."""

    def line(self, item: Active) -> str:
        """Return the line of a run in progress."""
        top1 = f"val {100 * item.progress.top1:5.1f} %" if item.progress.top1 is not None else " " * 11
        epochs = f"epoch {item.progress.epochs:>{len(str(item.run.epochs))}}/{item.run.epochs}"
        return f"{item.run!s:<{self.width}}  {epochs}  {top1}  {clock(item.seconds)}"

    def summary(self, over: int, left: float | None) -> str:
        """Return the line of the whole study."""
        return f"{over} of {self.total} runs done" + (f", about {clock(left)} left" if left is not None else "")


class TerminalDisplay(Display):
    """Updates its last lines in place."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        super().__init__(stream, runs)
        self._shown = 0  # lines to be replaced by the next update

    def note(self, text: str) -> None:
        self._erase()
        print(text, file=self.stream, flush=True)

    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
        self._erase()
        columns = shutil.get_terminal_size().columns - 1  # a wrapped line would break the count
        lines = [*(f"  {self.line(item)}" for item in active), f"  {self.summary(over, left)}"]
        print("\n".join(line[:columns] for line in lines), file=self.stream, flush=True)
        self._shown = len(lines)

    def _erase(self) -> None:
        if self._shown:
            print(f"\x1b[{self._shown}A\x1b[J", end="", file=self.stream)
        self._shown = 0


class PlainDisplay(Display):
    """Appends a line per run every minute, for log files."""

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
    """Return the display for a stream, by default standard output."""
    stream = stream or sys.stdout
    return TerminalDisplay(stream, runs) if stream.isatty() else PlainDisplay(stream, runs)
