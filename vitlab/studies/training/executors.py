"""Where a study's runs train: an executor of `concurrent.futures`, of this machine or of many.

`compare --executor` takes the name of a function of `SHORT`, or the import path of any class or function that returns
an object with `submit`, such as `mpi4py.futures.MPIPoolExecutor`. What is submitted is a `RunTask`. Workers import this
file, so it imports little.
"""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

from referee.formats import counted

from vitlab.config import IMPORT
from vitlab.experiment.errors import need
from vitlab.signals import STOPPED, UNWRITTEN

if TYPE_CHECKING:
    from vitlab.studies.file.runs import Run

FULL_SECONDS = 60.0  # for which a machine without room takes no run
SHORT = {
    "slurm": "vitlab.studies.training.slurm.slurm",
    "dask": f"{__name__}.dask",
    "ray": f"{__name__}.ray",
}  # names of executors


class RunTask:
    """One run, to be called where it trains. It is pickled, so it has nothing but strings and its seed.

    Runs of one seed are compared, so they should train on machines of one kind. `once` are arguments for the first
    start only, before which there is no log: a task that is submitted again must not replace its run.
    """

    def __init__(self, command: Sequence[str], log: Path, seed: int, once: Sequence[str] = ()) -> None:
        self.command, self.log, self.seed, self.once = list(command), str(log.absolute()), seed, list(once)
        self.folder = os.getcwd()  # paths in configurations are relative to it
        self.environment = {IMPORT: trusted} if (trusted := os.environ.get(IMPORT)) else {}

    def __call__(self) -> int:
        """Train, and return the exit status; -n after signal n."""
        status = self.start().wait()
        if status == UNWRITTEN:  # the next run would fail as well: leave it to machines that have room
            time.sleep(FULL_SECONDS)
        return status

    def start(self, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start the process, with these environment variables more."""
        environment = {**self.environment, **(environment or {})}
        command = [*self.command, *([] if Path(self.log).is_file() else self.once)]
        words = [*(f"{key}={value}" for key, value in environment.items()), shlex.join(command)]
        with Path(self.log).open("a", encoding="utf-8") as log:
            log.write(" ".join(words) + "\n")
            log.flush()
            # A new session, so that Ctrl-C reaches only the study's process, which then ends the others in order.
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )


class Slots(NamedTuple):
    """The number of parallel runs, and what each of them may use."""

    jobs: int
    threads: int | None  # None: up to the run
    gpus: list[str]  # as in CUDA_VISIBLE_DEVICES; empty: up to the run

    @property
    def sharing(self) -> int:
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


def allot(runs: "Sequence[Run]", jobs: int | None) -> Slots:
    """Divide this machine among the runs: `jobs` at a time, by default one per GPU, or one per core on a CPU.

    On a CPU the cores are divided equally through OMP_NUM_THREADS; with several GPUs each run sees one of them. Many
    single-threaded runs are faster than one run with many threads: the threads of a small model mostly wait for each
    other, on a busy machine ten times as long as they compute.
    """
    import torch  # here, for the workers

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


PATIENCE_SECONDS = 20.0  # for a run to write a checkpoint after SIGTERM


class Local(Executor):
    """Processes of this machine, as many at a time as it has slots."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self._threads = ThreadPoolExecutor(slots.jobs)
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(slots.jobs):
            self._free.put(slot)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock, self._over = threading.Lock(), False

    def submit(self, task: RunTask) -> Future[int]:  # type: ignore[override]  # nothing else is submitted
        def train() -> int:
            slot = self._free.get()
            try:
                with self._lock:
                    if self._over:
                        return STOPPED
                    child = task.start(self.slots.environment(slot))
                    self._children.add(child)
                status = child.wait()
                self._children.discard(child)
                return status
            finally:
                self._free.put(slot)

        return self._threads.submit(train)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Unless `wait`, end the processes that still run; kill them after a while or a second Ctrl-C."""
        if wait:
            self._threads.shutdown(cancel_futures=cancel_futures)
            return
        with self._lock:
            self._over = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        children = list(self._children)
        try:
            for child in children:
                child.terminate()
            deadline = time.monotonic() + PATIENCE_SECONDS
            for child in children:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for child in children:
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)  # with its data-loading workers
                    child.wait()


class Fleet(Executor):
    """Several kinds of machines, an executor each. All runs of a seed train on one, so that no variant gains by it.

    They take the study's seeds in turn, so that a seed that was begun comes back; one that is there twice gets two.
    """

    def __init__(self, executors: Sequence[Executor], seeds: Sequence[int]) -> None:
        self._executors = list(executors)
        self._of: dict[int, Executor] = {}
        for seed in seeds:
            self._executor(seed)

    def _executor(self, seed: int) -> Executor:
        return self._of.setdefault(seed, self._executors[len(self._of) % len(self._executors)])

    def submit(self, task: RunTask) -> Future[int]:  # type: ignore[override]  # nothing else is submitted
        return self._executor(task.seed).submit(task)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Let those that submit many runs at once do so."""
        with ExitStack() as stack:
            for executor in set(self._executors):
                stack.enter_context(getattr(executor, "batch", nullcontext)())
            yield

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End all of them. Dask's and Ray's know no `cancel_futures`; runs that wait are cancelled by `run_all`."""
        for executor in set(self._executors):
            executor.shutdown(wait=wait)


def dask(address: str | None = None, **settings: Any) -> Executor:
    """Return the executor of the Dask scheduler at `tcp://host:8786`, or of a new cluster on this machine.

    `settings` are other arguments of `distributed.Client`, such as `n_workers` of a local cluster.
    """
    need("dask", "distributed", what="--executor dask")
    from distributed import Client

    return Client(address, **settings).get_executor(pure=False)  # a run that is submitted again trains again


class _Ray(Executor):
    def __init__(self, remote: Any) -> None:
        self.remote = remote

    def submit(self, task: RunTask) -> Future[int]:  # type: ignore[override]  # nothing else is submitted
        return self.remote.remote(task).future()


def ray(address: str | None = None, **settings: Any) -> Executor:
    """Return the executor of the Ray cluster at an address, like `auto`, or of a new one on this machine.

    `settings` are what a run needs, options of `ray.remote` such as `num_cpus`, `num_gpus`, `max_retries`.
    """
    need("ray", "ray", what="--executor ray")
    import ray as package

    package.init(address, ignore_reinit_error=True, log_to_driver=False)
    return _Ray(package.remote(**{"num_cpus": 1} | settings)(RunTask.__call__))


def new_executor(name: str, settings: Sequence[str]) -> Executor:
    """Return the executor that `--executor NAME KEY=VALUE …` names."""
    module, _, attribute = SHORT.get(name, name).rpartition(".")
    try:
        build: Callable[..., Executor] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--executor {name}: {error}. Give {', '.join(SHORT)}, or an import path.") from None
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--executor {name} {setting}: expected KEY=VALUE, like address=tcp://host:8786.")
        values[key] = text  # of JSON a number, true, null or a list; YAML would read 4:00:00 as 14,400
        with suppress(ValueError):
            values[key] = json.loads(text)
    try:
        executor: Executor = build(**values)
    except (TypeError, ValueError, OSError) as error:
        raise ValueError(f"--executor {' '.join([name, *settings])}: {error}") from error
    if not callable(getattr(executor, "submit", None)):
        raise ValueError(f"--executor {name}: a {type(executor).__name__} has no `submit`, as executors have.")
    return executor
