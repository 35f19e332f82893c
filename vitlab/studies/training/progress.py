"""Progress of a study's runs, read from their metrics.csv and shown in one line per run."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TextIO

from vitlab.atomic_files import regular
from vitlab.studies.file.format import clock
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.runs import Run

TAIL_BYTES = 65_536  # contains the last epoch of any run, and is read quickly
PLAIN_INTERVAL = 60.0  # seconds between progress lines in a log file


class Progress(NamedTuple):
    """The progress of a run: completed epochs and the last score on the validation images."""

    epochs: int
    score: float | None


@dataclass
class Active:
    """A run in progress."""

    run: Run
    epochs_before: int  # completed before this start
    progress: Progress
    seconds: float = 0.0


def read_progress(metrics: Path, metric: Metric) -> Progress:
    """Read the progress from a metrics.csv that another process is writing."""
    try:
        with regular(metrics).open("rb") as file:
            header = file.readline().decode("utf-8")
            file.seek(max(file.tell(), metrics.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="ignore").splitlines()
    except FileNotFoundError:
        return Progress(0, None)
    width = header.count(",")
    epochs, score = 0, None
    for row in csv.DictReader([header, *(line for line in lines if line.count(",") == width)]):
        epoch = int(float(row.get("epoch") or 0))
        if row.get(metric.validation):
            epochs, score = max(epochs, epoch + 1), float(row[metric.validation])
        else:
            epochs = max(epochs, epoch)
    return Progress(epochs, score)


def seconds_left(ended: Sequence[Active], active: Sequence[Active], waiting: Sequence[Run], jobs: int) -> float | None:
    """Estimate the time until all runs have ended, from the seconds per epoch of each variant.

    A variant without a completed epoch is assumed to take as long for an image as the mean of the others; None before
    the first epoch.
    """
    timed = [
        (item.run, item.seconds / epochs)
        for item in (*ended, *active)
        if (epochs := item.progress.epochs - item.epochs_before) > 0
    ]
    if not timed:
        return None
    runs = [*(item.run for item in (*ended, *active)), *waiting]
    images = {run: run.config.get("data", {}).get("init_args", {}).get("train_images") for run in runs}
    if not all(images.values()):
        images = dict.fromkeys(runs, 1)  # all epochs are taken to have as many
    speeds: dict[Path, list[float]] = {}
    for run, seconds in timed:
        speeds.setdefault(run.folder, []).append(seconds)
    speed = {folder: fmean(values) for folder, values in speeds.items()}
    typical = fmean(speed[folder] / images[run] for folder, run in {run.folder: run for run, _ in timed}.items())

    def epoch(run: Run) -> float:
        return speed.get(run.folder, typical * images[run])

    remaining = [(item.run.epochs - item.progress.epochs) * epoch(item.run) for item in active]
    queued = sum(run.epochs * epoch(run) for run in waiting)
    return max(max(remaining, default=0.0), (sum(remaining) + queued) / jobs)


class Display:
    """Shows the progress of runs: in a terminal in lines updated in place, in a log file in a line per run a minute."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        self.stream, self.total = stream, len(runs)
        self.width = max(len(str(run)) for run in runs)
        self._shown = 0  # lines to be replaced by the next update
        self._printed: dict[Run, float] = {}

    def note(self, text: str) -> None:
        """Print a permanent line."""
        self._erase()
        print(text, file=self.stream, flush=True)

    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
        """Show the runs in progress, the number of finished ones, and the time left."""
        summary = f"{over} of {self.total} runs done" + (f", about {clock(left)} left" if left is not None else "")
        if not self.stream.isatty():
            for item in active:
                if item.seconds - self._printed.get(item.run, 0.0) >= PLAIN_INTERVAL:
                    self._printed[item.run] = item.seconds
                    self.note(f"  {self.line(item)}  ({summary})")
            return
        self._erase()
        columns = shutil.get_terminal_size().columns - 1  # a wrapped line would break the count
        lines = [*(f"  {self.line(item)}" for item in active), f"  {summary}"]
        print("\n".join(line[:columns] for line in lines), file=self.stream, flush=True)
        self._shown = len(lines)

    def line(self, item: Active) -> str:
        """Return the line of a run in progress."""
        score, metric = item.progress.score, item.run.metric
        shown = "" if score is None else f"val {100 * score:5.1f} %" if metric.is_accuracy else f"val {score:.4g}"
        epochs = f"epoch {item.progress.epochs:>{len(str(item.run.epochs))}}/{item.run.epochs}"
        if not item.run.epochs:
            epochs = "frozen"
        return f"{item.run!s:<{self.width}}  {epochs}  {shown:<11}  {clock(item.seconds)}"

    def _erase(self) -> None:
        if self._shown:
            print(f"\x1b[{self._shown}A\x1b[J", end="", file=self.stream)
        self._shown = 0
