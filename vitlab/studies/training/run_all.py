"""Train the runs of a study through an executor, and show their progress from their metrics.csv."""

import csv
import math
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from vitlab.atomic_files import regular, write_text
from vitlab.config import dump_yaml, weights_of
from vitlab.experiment.chain import Source
from vitlab.runs.directory import METRICS, SUMMARY, RunDirectory
from vitlab.signals import UNWRITTEN, signals_as_exit
from vitlab.studies.file.format import clock
from vitlab.studies.file.metric import Metric
from vitlab.studies.file.registration import Outcome, conflicting, cut_short, is_finished, refuse_without_metric
from vitlab.studies.file.runs import Run
from vitlab.studies.training.executors import Fleet, RunTask

if TYPE_CHECKING:
    from vitlab.studies.training.executors import Job

TAIL_BYTES = 65_536  # contains the last epoch of any run, and is read quickly
PLAIN_INTERVAL = 60.0  # seconds between progress lines in a log file


class Progress(NamedTuple):
    epochs: int  # completed
    score: float | None  # the last on the validation images
    steps: float = 0.0  # of an epoch; 0: not known yet


@dataclass
class Active:
    run: Run
    epochs_before: int  # completed before this start
    progress: Progress
    seconds: float = 0.0


def length(run: Run, steps: float) -> int:
    """Return how many epochs a run has, which `trainer.max_steps` may end early, if an epoch has so many steps."""
    most = run.config["trainer"].get("max_steps") or -1
    return min(run.epochs, math.ceil(most / steps)) if most > 0 and steps else run.epochs


def read_progress(metrics: Path, metric: Metric) -> Progress:
    """Read a metrics.csv that another process is writing."""
    try:
        with regular(metrics).open("rb") as file:
            header = file.readline().decode("utf-8")
            file.seek(max(file.tell(), metrics.stat().st_size - TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="ignore").splitlines()
    except FileNotFoundError:
        return Progress(0, None)
    width = header.count(",")
    epochs, score, steps = 0, None, 0.0
    for row in csv.DictReader([header, *(line for line in lines if line.count(",") == width)]):
        epoch = int(float(row.get("epoch") or 0))
        steps = max(steps, (int(row["step"] or 0) + 1) / (epoch + 1))  # at the end of an epoch
        if row.get(metric.validation):
            epochs, score = max(epochs, epoch + 1), float(row[metric.validation])
        else:
            epochs = max(epochs, epoch)
    return Progress(epochs, score, steps)


def seconds_left(ended: Sequence[Active], active: Sequence[Active], waiting: Sequence[Run], jobs: int) -> float | None:
    """Estimate the time until all runs have ended, from the seconds per epoch of each variant; None before the first.

    A variant without a completed epoch is assumed to take as long for an image as the mean of the others.
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

    steps = {item.run.folder: item.progress.steps for item in (*ended, *active) if item.progress.epochs}

    def left(run: Run, done: int = 0) -> float:
        epochs = length(run, steps.get(run.folder, fmean(steps.values())))
        return (epochs - done) * speed.get(run.folder, typical * images[run])

    remaining = [left(item.run, item.progress.epochs) for item in active]
    queued = sum(map(left, waiting))
    return max(max(remaining, default=0.0), (sum(remaining) + queued) / jobs)


class Display:
    """Shows the progress of runs: in a terminal in lines updated in place, in a log file in a line per run a minute."""

    def __init__(self, stream: TextIO, runs: Sequence[Run]) -> None:
        self.stream, self.total = stream, len(runs)
        self.width = max(len(str(run)) for run in runs)
        self._shown = 0  # lines to be replaced by the next update
        self._printed: dict[Run, float] = {}

    def note(self, text: str) -> None:
        self._erase()
        print(text, file=self.stream, flush=True)

    def update(self, active: Sequence[Active], over: int, left: float | None) -> None:
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
        score, metric = item.progress.score, item.run.metric
        planned = length(item.run, item.progress.steps if item.progress.epochs else 0.0)
        shown = "" if score is None else f"val {100 * score:5.1f} %" if metric.is_fraction else f"val {score:.4g}"
        epochs = f"epoch {item.progress.epochs:>{len(str(planned))}}/{planned}" if planned else "frozen"
        return f"{item.run!s:<{self.width}}  {epochs}  {shown:<11}  {clock(item.seconds)}"

    def _erase(self) -> None:
        if self._shown:
            print(f"\x1b[{self._shown}A\x1b[J", end="", file=self.stream)
        self._shown = 0


POLL_SECONDS = 0.5
LOG_LINES = 8  # shown for a failed run
TRIES = 4  # of a run whose machine could not write

Train = Callable[[list[Run]], list[Outcome]]


def run_all(
    runs: Sequence[Run], program: Sequence[str], executor: Executor, display: Display, overwrite: bool
) -> list[Outcome]:
    """Train the unfinished runs and return the outcome of each, in order; after a signal, the next call continues them.

    A run that another process writes is waited for. `overwrite` replaces those cut short or of another configuration.
    """
    cut = {run for run in runs if overwrite and is_finished(run) and cut_short(run)}
    replaced = {*conflicting(runs)} | cut  # none of the former unless `overwrite`
    outcomes = {run: Outcome(run, None) for run in runs if is_finished(run) and run not in replaced}
    refuse_without_metric(outcomes)
    if outcomes:
        display.note(f"  {len(outcomes)} of {len(runs)} runs are already finished.")
    waiting = in_order([run for run in runs if run not in outcomes])
    busy: set[Run] = set()  # written by another process
    submitted: dict[Run, _Submitted] = {}
    ended: list[Active] = []
    unwritten: Counter[Run] = Counter()  # how often its machine had no room
    jobs = 1  # that were seen to train in parallel
    try:
        with signals_as_exit():
            while waiting or submitted:
                writers = {run: writer for run in waiting if (writer := RunDirectory(run.directory).writer)}
                for run in writers.keys() - busy:
                    display.note(f"  {run} is waited for: {writers[run]}.")
                busy = {*writers}
                with getattr(executor, "batch", nullcontext)():
                    for run in [run for run in waiting if run not in busy]:
                        waiting.remove(run)
                        if is_finished(run) and run not in replaced:  # by the process that was waited for
                            outcomes[run] = Outcome(run, None)
                        else:
                            anew = run in replaced and run not in unwritten
                            submitted[run] = _Submitted(run, program, executor, anew)
                for run, each in list(submitted.items()):
                    over = each.future.done()  # before its last line is read
                    each.observe()
                    if not over:
                        continue
                    del submitted[run]
                    outcome = each.outcome()
                    if outcome.failure is not None and RunDirectory(run.directory).writer:  # it was first
                        waiting.append(run)
                        continue
                    if outcome.failure is not None and is_finished(run) and run not in replaced:
                        outcome = Outcome(run, cut_short(run))  # by that process, which has just ended
                    elif each.is_unwritten and isinstance(executor, Fleet) and unwritten[run] + 1 < TRIES:
                        unwritten[run] += 1
                        display.note(f"  {run}: its machine could not write the results; it is submitted again.")
                        waiting.append(run)
                        continue
                    outcomes[run] = outcome
                    if outcome.failure is None:
                        refuse_without_metric([run])  # after the first run, not after all
                        ended.append(each.active)
                    ending = f"  {display.line(each.active)}  done"
                    if outcome.failure is not None:
                        log = "\n".join(f"    | {line}" for line in last_lines(run.log_path))
                        ending = (
                            f"  {run!s:<{display.width}}  FAILED after {clock(each.active.seconds)}, {outcome.failure}"
                            f"\n    Last lines of {run.log_path}:\n{log}"
                        )
                    display.note(ending)
                active = [each.active for each in submitted.values() if each.began is not None]
                jobs = max(jobs, len(active))
                queued = [*(run for run, each in submitted.items() if each.began is None), *waiting]
                display.update(active, len(outcomes), seconds_left(ended, active, queued, jobs))
                if here := [each.future for each in submitted.values() if isinstance(each.future, Future)]:
                    wait(here, POLL_SECONDS, FIRST_COMPLETED)
                elif submitted or waiting:
                    time.sleep(POLL_SECONDS)
    except SystemExit:
        display.note("  Interrupted. The same command continues the runs.")
        raise
    finally:
        for each in submitted.values():
            each.future.cancel()
    return [outcomes[run] for run in runs]


def in_order(runs: Sequence[Run]) -> list[Run]:
    """Return runs with those last that would wait for an experiment which another one starts from, too."""
    begun: Counter[tuple[Any, ...]] = Counter()

    def place(run: Run) -> int:
        sources = {value: Source.parse(value) for value in weights_of(run.config).values()}
        keys = [(value, each.has_seed or run.seed, run.fold) for value, each in sources.items() if each]
        begun.update(keys)
        return max((begun[key] for key in keys), default=1)

    return sorted(runs, key=place)


class _Submitted:
    def __init__(self, run: Run, program: Sequence[str], executor: Executor, replace: bool) -> None:
        write_text(run.config_path, dump_yaml(run.config))
        if replace:
            run.log_path.unlink(missing_ok=True)
        self.active = Active(run, 0, Progress(0, None))
        self._log_size = _size(run.log_path)  # grows when the process starts
        self.began: float | None = None  # when its process was seen to start
        self._replace = replace
        self.is_unwritten = False  # for lack of room, as far as `outcome` knows
        command = [*program, "fit", "--config", str(run.config_path.absolute())]
        task = RunTask(command, run.log_path, run.seed, ["--run.overwrite", "true"] if replace else [])
        self.future: Future[int] | Job = executor.submit(task)

    def observe(self) -> None:
        run = self.active.run
        if self.began is None:
            if _size(run.log_path) == self._log_size:
                return
            self.began = time.monotonic()
            if not self._replace:  # else they are the epochs of the run that it replaces
                self.active.epochs_before = read_progress(run.directory / METRICS, run.metric).epochs
        self.active.seconds = time.monotonic() - self.began
        self.active.progress = read_progress(run.directory / METRICS, run.metric)

    def outcome(self) -> Outcome:
        run = self.active.run
        try:
            status = self.future.result()
        except Exception as error:  # the executor lost it
            if is_finished(run):
                return Outcome(run, cut_short(run))
            how = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        else:
            if status == 0:
                return Outcome(run, cut_short(run) if is_finished(run) else f"exit status 0, but {SUMMARY} is missing")
            self.is_unwritten = status == UNWRITTEN
            how = f"exit status {status}" if status > 0 else f"ended by {signal.Signals(-status).name}"
        return Outcome(run, ": ".join([how, *last_lines(run.log_path, 1)]))


def last_lines(log: Path, count: int = LOG_LINES) -> list[str]:
    """Return the last lines that a process printed, without overwritten progress bars."""
    if not log.is_file():
        return []
    lines = (line.rpartition("\r")[2].rstrip() for line in log.read_text(errors="replace").split("\n"))
    return [line for line in lines if line][-count:]


def _size(log: Path) -> int:
    return log.stat().st_size if log.is_file() else 0
