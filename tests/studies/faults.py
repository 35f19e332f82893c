"""A study of 60 runs on eight Dask workers that are killed at random, as is the study's own process.

    python tests/studies/faults.py          nine minutes, most of them asleep

A run sleeps for as many seconds as it is long, keeps its place once a second and continues from there, under the lock
of its directory, and then writes what `fake_vitlab.py` plants. Two of eight workers die each minute by SIGKILL: every
second one with its run, as when a machine is lost, the others alone, so that the run goes on without them. Each comes
back after five seconds. One worker has no room on its disk, so that each of its runs ends where it would write, and one
has a clock that is ten minutes fast. The study's process is killed twice and started again. In the end the runs, the
looks and the report have to be those of a study that one worker trained undisturbed.
"""

import contextlib
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

# What a study needs is imported where it is used: a run starts in a tenth of a second without it.
from vitlab.atomic_files import write_text
from vitlab.runs.lock import Busy, run_lock
from vitlab.signals import UNWRITTEN

WORKERS, SEEDS, SECONDS = 8, 20, 60
HERE = str(Path(__file__).absolute())
FILES = ("metrics.csv", "predictions.parquet", "summary.json")


def fit(config: Path) -> None:
    """Sleep for what is left of a run, and write its results."""
    settings = yaml.safe_load(config.read_text())
    folder = Path(settings["run"]["root"]) / settings["run"]["name"] / f"seed-{settings['seed_everything']}"
    folder.mkdir(parents=True, exist_ok=True)
    if os.environ.get("ROOM") == "none":
        print("the last weights are not written")
        sys.exit(UNWRITTEN)
    state = folder / "slept"
    try:
        with run_lock(folder):
            slept = int(state.read_text()) if state.is_file() else 0
            for second in range(slept, settings["model"]["init_args"]["backbone"]["init_args"]["seconds"]):
                time.sleep(1)
                write_text(state, str(second + 1))
            sys.argv = [HERE, "fit", "--config", str(config)]
            runpy.run_path(str(Path(HERE).with_name("fake_vitlab.py")), run_name="__main__")
            for file in folder.iterdir() if "CLOCK" in os.environ else ():
                os.utime(file, (time.time() + float(os.environ["CLOCK"]),) * 2)
    except Busy as busy:
        print(busy)
        sys.exit(2)


def study(folder: Path, address: str | None) -> None:
    """Train the study on the cluster of this address, or one run after the other in this process."""
    import fake_study
    import fake_vitlab

    from vitlab.studies import compare as module
    from vitlab.studies.file.registration import Outcome
    from vitlab.studies.file.runs import Run
    from vitlab.studies.training.executors import new_executor

    fake_study.patch(fake_study.Digits())
    if address is not None:
        cluster = partial(new_executor, "dask", [f"address={address}"])
        module.compare(folder / "study.yaml", folder / "runs", program=(sys.executable, HERE), executors=[cluster])
        return

    def run_all(runs: list[Run], *args: object) -> list[Outcome]:
        for run in runs:
            fake_vitlab.fit(run.config, overwrite=False)
        return [Outcome(run, None) for run in runs]

    module.run_all = run_all  # type: ignore[assignment]
    module.compare(folder / "study.yaml", folder / "runs", program=(sys.executable, HERE))


def written(folder: Path, seconds: int) -> Path:
    """Write the study's files, of runs that are so long."""
    from fake_study import Digits, variant, write_study

    folder.mkdir(parents=True)
    lengths = {"ViT": 0.94, "Swin": 0.95, "Swin v2": 0.951}
    variants = {name: variant(accuracy, seconds=seconds) for name, accuracy in lengths.items()}
    return write_study(folder, Digits(), variants=variants, seeds=list(range(1, SEEDS + 1)), jobs=2)


class Cluster:
    """A Dask scheduler and its workers, each a process without a nanny."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"tcp://127.0.0.1:{random.randrange(20_000, 40_000)}"
        self.scheduler = self._start("scheduler", "--host", self.address, "--no-dashboard")
        faults = [{"ROOM": "none"}, {"CLOCK": "600"}, *[{}] * (WORKERS - 2)]
        self.workers = [self.worker(fault) for fault in faults]
        self.absent: list[tuple[float, dict[str, str]]] = []  # when a killed worker comes back, and with which fault

    def worker(self, fault: dict[str, str]) -> "tuple[subprocess.Popen[bytes], dict[str, str]]":
        """Start a worker."""
        words = "worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"
        return self._start(*words, fault=fault), fault

    def _start(self, *words: str, fault: dict[str, str] | None = None) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{words[0]}.log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(HERE).parents[2])}
            environment |= fault or {}
            command = [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]]
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=self.folder)

    def kill_one(self, with_run: bool) -> None:
        """Kill a worker by SIGKILL."""
        worker, fault = self.workers.pop(random.randrange(len(self.workers)))
        runs = psutil.Process(worker.pid).children(recursive=True) if with_run else []
        for process in (worker, *runs):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        worker.wait()
        self.absent.append((time.monotonic() + 5, fault))

    def restore(self) -> None:
        """Start the workers whose time has come."""
        for due, fault in [each for each in self.absent if each[0] <= time.monotonic()]:
            self.absent.remove((due, fault))
            self.workers.append(self.worker(fault))

    def close(self) -> None:
        """End all processes."""
        for process in (*(worker for worker, _ in self.workers), self.scheduler):
            process.kill()
            process.wait()


def pages(folder: Path) -> dict[str, bytes]:
    """Return what a study has to end with: files of its runs, looks, and the report without its times."""
    from vitlab.studies.file.runs import plan
    from vitlab.studies.file.study import read_study

    planned = plan(read_study(folder / "study.yaml"), folder / "runs")
    found = {f"{run}: {file}": (run.directory / file).read_bytes() for run in planned for file in FILES}
    for file in ("looks.jsonl", "results.csv", "verdict.json", "report.md"):
        text = (planned[0].folder.parent / file).read_text().replace(str(folder), "")
        found[file] = re.sub(r'"time": "[^"]*"', "", text).encode()
    return found


def main() -> None:
    """Print what happened, and what differs."""
    work = Path(tempfile.mkdtemp(prefix="vitlab-faults."))
    written(work / "alone", SECONDS)
    study(work / "alone", None)
    written(work / "faults", SECONDS)
    cluster = Cluster(work)
    counts: dict[str, int] = {"workers alone": 0, "workers with their run": 0, "the study's process": 0}

    def begin() -> "subprocess.Popen[bytes]":
        with (work / "study.log").open("a") as log:
            return subprocess.Popen(
                [sys.executable, HERE, "study", str(work / "faults"), cluster.address], stdout=log, stderr=log
            )

    start, seconds = time.monotonic(), 0.0  # until the last run, without the report
    process = begin()
    ideal = 3 * SEEDS * SECONDS / (WORKERS - 1)  # one trains nothing
    kills = [30.0 * i for i in range(1, 100)]
    stops = [0.3 * ideal, 0.7 * ideal]
    try:
        while process.poll() is None:
            passed = time.monotonic() - start
            if not seconds and sum(1 for _ in (work / "faults").rglob("summary.json")) == 3 * SEEDS:
                seconds = passed
            cluster.restore()
            if passed > kills[0]:
                kills.pop(0)
                with_run = len(kills) % 2 == 0
                cluster.kill_one(with_run)
                counts["workers with their run" if with_run else "workers alone"] += 1
            if stops and passed > stops[0]:
                stops.pop(0)
                process.send_signal(signal.SIGKILL)
                process.wait()
                counts["the study's process"] += 1
                process = begin()
            time.sleep(0.2)
    finally:
        cluster.close()
    ours, theirs = pages(work / "faults"), pages(work / "alone")
    differ = sorted(name for name in theirs if ours[name] != theirs[name])
    print(f"killed: {', '.join(f'{count} × {what}' for what, count in counts.items())}")
    print(f"{3 * SEEDS} runs of {SECONDS} s on the {WORKERS - 1} workers with room: {seconds:.0f} s")
    print(f"{ideal / seconds:.0%} of the speed of undisturbed ones")
    again = (work / "study.log").read_text().count("it is submitted again")
    print(f"{again} runs met the worker without room, and were submitted again")
    print(f"{len(theirs)} files, {len(differ)} differ" + "".join(f"\n  {name}" for name in differ))
    if process.returncode or differ:
        print(f"exit status {process.returncode}; kept: {work}")
        sys.exit(1)
    shutil.rmtree(work)


if __name__ == "__main__":
    words: list[Any] = sys.argv[1:]
    if not words:
        main()
    elif words[0] == "fit":
        fit(Path(words[words.index("--config") + 1]))
    elif words[0] == "study":
        study(Path(words[1]), words[2])
    else:  # benchmark
        runpy.run_path(str(Path(HERE).with_name("fake_vitlab.py")), run_name="__main__")
