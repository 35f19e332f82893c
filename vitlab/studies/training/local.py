"""Start the runs of a study as parallel processes; skip finished runs, and continue after failed ones.

The number of parallel runs is the study's `jobs`, by default one per GPU, or one per core on a CPU. On a CPU the cores
are divided equally through OMP_NUM_THREADS; with several GPUs each run sees one of them. Many single-threaded runs are
faster than one run with many threads: the threads of a small model mostly wait for each other, on a busy machine ten
times as long as they compute.
"""

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from referee.formats import counted

from vitlab.atomic_files import write_text
from vitlab.config import Config
from vitlab.runs.directory import METRICS, SUMMARY, RunDirectory
from vitlab.signals import signals_as_exit, signals_later
from vitlab.studies.file.format import clock
from vitlab.studies.file.runs import Run
from vitlab.studies.file.state import Outcome, cut_short, is_finished, refuse_without_metric, to_replace
from vitlab.studies.training.progress import Active, Display, Progress, read_progress, seconds_left

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 20.0  # for a run to write a checkpoint after SIGTERM
LOG_LINES = 8  # shown for a failed run


class Slots(NamedTuple):
    """The number of parallel runs, and what each of them may use."""

    jobs: int
    threads: int | None  # None: up to the run
    gpus: list[str]  # as in CUDA_VISIBLE_DEVICES; empty: up to the run

    @property
    def sharing(self) -> int:
        """Number of runs that share a device."""
        return math.ceil(self.jobs / max(1, len(self.gpus)))

    def environment(self, slot: int) -> dict[str, str]:
        """Return the environment variables for the run in a slot, 0 <= slot < jobs."""
        variables = {"PYTHONUNBUFFERED": "1"}  # so that the log can be followed
        if self.threads is not None:
            variables["OMP_NUM_THREADS"] = str(self.threads)
        if self.gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self.gpus[slot % len(self.gpus)]
        return variables

    def __str__(self) -> str:
        runs = "one run at a time" if self.jobs == 1 else f"{self.jobs} runs in parallel"
        if self.threads is not None:
            return f"{runs} on the CPU, {counted(self.threads, 'thread')} each"
        return f"{runs} on GPU {', '.join(self.gpus)}" if self.gpus else runs


Train = Callable[[list[Run]], list[Outcome]]
"""Trains runs, or continues them."""


class _Child(NamedTuple):
    process: subprocess.Popen[bytes]
    started: float
    active: Active


def allot(runs: Sequence[Run], jobs: int | None) -> Slots:
    """Divide this machine among the runs."""
    trainers = [run.config.get("trainer", {}) for run in runs]
    if all(trainer.get("accelerator") == "cpu" for trainer in trainers) or not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        jobs = min(jobs or cores, len(runs))
        return Slots(jobs, max(1, cores // jobs), [])
    if any(trainer.get("devices", "auto") not in ("auto", 1, "1") for trainer in trainers):
        return Slots(jobs or 1, None, [])  # a run on several GPUs picks them itself
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return Slots(min(jobs or len(gpus), len(runs)), None, gpus)


# ---- what is in a run directory


def last_lines(log: Path, count: int = LOG_LINES) -> list[str]:
    """Return the last lines that a process printed, without overwritten progress bars."""
    if not log.is_file():
        return []
    lines = (line.rpartition("\r")[2].rstrip() for line in log.read_text(errors="replace").split("\n"))
    return [line for line in lines if line][-count:]


def write_config(path: Path, config: Config) -> None:
    """Write a configuration atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))


# ---- processes


def run_all(
    runs: Sequence[Run], program: Sequence[str], slots: Slots, display: Display, overwrite: bool
) -> list[Outcome]:
    """Train the unfinished runs and return the outcome of each, in order.

    A run that another process is writing, as one that a killed study left behind, is waited for. A signal or an error
    ends the processes; the next call continues them.

    Args:
        program: The command line to which `fit --config <file>` is appended.
        overwrite: Replace runs that were cut short or have another configuration; without it there must be no such.
    """
    replaced = to_replace(runs, overwrite)
    outcomes = {run: Outcome(run, None) for run in runs if is_finished(run) and run not in replaced}
    refuse_without_metric(outcomes)
    if outcomes:
        display.note(f"  {len(outcomes)} of {len(runs)} runs are already finished.")
    waiting = deque(run for run in runs if run not in outcomes)
    free = deque(range(slots.jobs))
    busy: set[Run] = set()  # written by another process
    children: dict[int, _Child] = {}
    ended: list[Active] = []
    with signals_as_exit(), _end_processes(children, display):
        while waiting or children:
            busy = written_elsewhere(waiting, busy, display.note)
            for run in [run for run in waiting if run not in busy]:
                if is_finished(run) and run not in replaced:  # by the process that was waited for
                    outcomes[run] = Outcome(run, None)
                elif free:
                    slot = free.popleft()
                    with signals_later():  # or the process would be in no list, and outlive this one
                        children[slot] = _start(run, program, slots.environment(slot), overwrite=run in replaced)
                else:
                    break
                waiting.remove(run)
            for slot, (process, started, active) in list(children.items()):
                over = process.poll() is not None  # before its last line is read
                active.seconds = time.monotonic() - started
                active.progress = _progress_of(active.run)
                if not over:
                    continue
                del children[slot]
                free.append(slot)
                if process.returncode != 0 and RunDirectory(active.run.directory).writer:  # it was first
                    waiting.append(active.run)
                    continue
                outcomes[active.run] = outcome = _outcome(active.run, process.returncode)
                if outcome.failure is None:
                    refuse_without_metric([active.run])  # after the first run, not after all
                    ended.append(active)
                display.note(_describe_end(outcome, active, display))
            running = [child.active for child in children.values()]
            display.update(running, len(outcomes), seconds_left(ended, running, waiting, slots.jobs))
            if children or waiting:
                time.sleep(POLL_SECONDS)
    return [outcomes[run] for run in runs]


def written_elsewhere(runs: Iterable[Run], known: set[Run], note: Callable[[str], object]) -> set[Run]:
    """Return the runs that another process is writing, and name those that are not known yet."""
    writers = {run: writer for run in runs if (writer := RunDirectory(run.directory).writer)}
    for run in writers.keys() - known:
        note(f"  {run} is waited for: {writers[run]}.")
    return set(writers)


def _progress_of(run: Run) -> Progress:
    return read_progress(run.directory / METRICS, run.metric)


def _start(run: Run, program: Sequence[str], environment: dict[str, str], overwrite: bool) -> _Child:
    write_config(run.config_path, run.config)
    command = [*program, "fit", "--config", str(run.config_path)]
    if overwrite:
        command += ["--run.overwrite", "true"]
    before = Progress(0, None) if overwrite else _progress_of(run)
    with run.log_path.open("w" if overwrite else "a", encoding="utf-8") as log:
        log.write(" ".join([*(f"{key}={value}" for key, value in environment.items()), shlex.join(command)]) + "\n")
        log.flush()
        # A new session, so that Ctrl-C reaches only this process, which then ends the others in order.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    return _Child(process, time.monotonic(), Active(run, before.epochs, before))


def _outcome(run: Run, code: int) -> Outcome:
    if code != 0:
        how = f"exit status {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
        return Outcome(run, ": ".join([how, *last_lines(run.log_path, 1)]))
    return Outcome(run, cut_short(run) if is_finished(run) else f"exit status 0, but {SUMMARY} is missing")


def _describe_end(outcome: Outcome, active: Active, display: Display) -> str:
    if outcome.failure is None:
        return f"  {display.line(active)}  done"
    log = "\n".join(f"    | {line}" for line in last_lines(outcome.run.log_path))
    return (
        f"  {outcome.run!s:<{display.width}}  FAILED after {clock(active.seconds)}, {outcome.failure}\n"
        f"    Last lines of {outcome.run.log_path}:\n{log}"
    )


@contextlib.contextmanager
def _end_processes(children: dict[int, _Child], display: Display) -> Iterator[None]:
    """End the processes that still run at the end of the block; kill them after a while or a second Ctrl-C."""
    try:
        yield
    except SystemExit:
        display.note("  Interrupted. The same command continues the runs.")
        raise
    finally:
        processes = [child.process for child in children.values()]
        try:
            for process in processes:
                process.terminate()
            deadline = time.monotonic() + PATIENCE_SECONDS
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with its data-loading workers
                    process.wait()
