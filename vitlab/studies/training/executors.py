"""Where a study's runs train: an executor of `concurrent.futures`, of this machine or of many.

`compare --executor` takes a name of `SHORT`, or the import path of any class or function that returns an object with
`submit`, such as `mpi4py.futures.MPIPoolExecutor`. Workers import this file, so it imports little.
"""

import json
import linecache
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from referee.formats import counted

from vitlab.atomic_files import read_json
from vitlab.config import IMPORT
from vitlab.experiment.errors import need
from vitlab.internals import end_with, preemption_signal
from vitlab.signals import STOPPED, UNWRITTEN

if TYPE_CHECKING:
    import submitit

    from vitlab.studies.file.runs import Run

FULL_SECONDS = 60.0  # for which a machine without room takes no run
SHORT = {name: f"{__name__}.{name}" for name in ("slurm", "dask", "ray")}  # names of executors


class RunTask:
    """One run, to be called where it trains. It is pickled, so it has nothing but strings and its seed.

    `once` are arguments for the first start only, before which there is no log: one that comes again replaces no run.
    """

    def __init__(self, command: Sequence[str], log: Path, seed: int, once: Sequence[str] = ()) -> None:
        self.command, self.log, self.seed, self.once = list(command), str(log.absolute()), seed, list(once)
        self.folder = os.getcwd()  # paths in configurations are relative to it
        self.environment = {IMPORT: trusted} if (trusted := os.environ.get(IMPORT)) else {}

    def __call__(self) -> int:
        """Return the exit status of the run; -n after signal n."""
        status = self.start().wait()
        if status == UNWRITTEN:  # the next run would fail as well: leave it to machines that have room
            time.sleep(FULL_SECONDS)
        return status

    def start(
        self, environment: Mapping[str, str] | None = None, server: "ForkServer | None" = None
    ) -> "subprocess.Popen[bytes] | ForkedRun":
        """Start the run's process, as a fork of the server if there is one."""
        environment = {**self.environment, **(environment or {})}
        command = [*self.command, *([] if Path(self.log).is_file() else self.once)]
        words = [*(f"{key}={value}" for key, value in environment.items()), shlex.join(command)]
        with Path(self.log).open("a", encoding="utf-8") as log:
            log.write(" ".join(words) + "\n")
            log.flush()
            if server is not None:
                return server.start(command[command.index("fit") :], environment, log.fileno())
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

    def environment(self, slot: int) -> dict[str, str]:
        """Return environment variables for the run in a slot, 0 <= slot < jobs."""
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

    Many runs of a thread are faster than one of many. On a CPU, OMP_NUM_THREADS is the threads of each, if it is set.
    """
    import torch  # here, for the workers

    trainers = [run.config.get("trainer", {}) for run in runs]
    if all(trainer.get("accelerator") == "cpu" for trainer in trainers) or not torch.cuda.is_available():
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        threads = int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or 0)  # 0: as many as there are cores
        jobs = min(jobs or max(1, cores // max(1, threads)), len(runs))
        return Slots(jobs, threads or max(1, cores // jobs), [])
    if any(trainer.get("devices", "auto") not in ("auto", 1, "1") for trainer in trainers):
        return Slots(jobs or 1, None, [])  # a run on several GPUs picks them itself
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return Slots(min(jobs or len(gpus), len(runs)), None, gpus)


PATIENCE_SECONDS = 20.0  # for a run to write a checkpoint after SIGTERM


class Local(Executor):
    """Processes of this machine, as many at a time as it has slots; forks of a server where they use CPUs alone."""

    def __init__(self, slots: Slots, server: "ForkServer | None" = None) -> None:
        self.slots, self._server = slots, server if slots.threads is not None else None
        self._threads = ThreadPoolExecutor(slots.jobs)
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(slots.jobs):
            self._free.put(slot)
        self._running: set[int] = set()  # processes
        self._lock, self._over = threading.Lock(), False

    def submit(self, task: RunTask) -> Future[int]:  # type: ignore[override]  # nothing else is submitted
        def train() -> int:
            slot = self._free.get()
            try:
                with self._lock:
                    if self._over:
                        return STOPPED
                    child = task.start(self.slots.environment(slot), self._server)
                    self._running.add(child.pid)
                status = child.wait()
                self._running.discard(child.pid)
                return status
            finally:
                self._free.put(slot)

        return self._threads.submit(train)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Unless `wait`, end the processes that still run; kill them after a while or a second Ctrl-C."""
        if not wait:
            with self._lock:
                self._over = True
            self._threads.shutdown(wait=False, cancel_futures=True)
            try:
                self._end(signal.SIGTERM, os.kill)
                deadline = time.monotonic() + PATIENCE_SECONDS
                while self._running and time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                self._end(signal.SIGKILL, os.killpg)  # with its data-loading workers
        self._threads.shutdown(cancel_futures=cancel_futures)

    def _end(self, number: signal.Signals, send: Callable[[int, int], None]) -> None:
        for process in list(self._running):
            with suppress(ProcessLookupError):  # it has just ended
                send(process, number)


class Fleet(Executor):
    """Several kinds of machines, an executor each, which take the study's seeds in turn.

    All runs of a seed train on one, so that no variant gains by it.
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
        with ExitStack() as stack:
            for executor in set(self._executors):
                stack.enter_context(getattr(executor, "batch", nullcontext)())
            yield

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for executor in set(self._executors):
            executor.shutdown(wait=wait)  # Dask's and Ray's know no `cancel_futures`; `run_all` cancels what waits


# ---- SLURM, through submitit: a study's runs are an array. When a task is pre-empted or reaches its time limit, `fit`
# writes its state and the task returns to the queue, where it continues. Ctrl-C leaves the array in the queue; the same
# command finds its tasks and waits again.

UNLIMITED = 1_000_000  # requeues at the time limit
SLURM_SECONDS = 5.0  # between two questions to SLURM


def slurm(folder: str = "runs/slurm", **settings: Any) -> "Submitit":
    """Return the executor that submits to SLURM, with submitit's files in a folder.

    `settings` are those of `sbatch` as submitit takes them, like `partition=gpu` and `time=240` (minutes).
    """
    if not isinstance(settings.get("time", 0), int):
        raise ValueError(f"time must be an integer (minutes), got {settings['time']}.")
    need("slurm", "submitit", what="--executor slurm")
    from submitit import SlurmExecutor

    executor = SlurmExecutor(folder, max_num_timeout=UNLIMITED)
    executor.update_parameters(**{"job_name": "vitlab", "stderr_to_stdout": True} | settings)
    return Submitit(executor)


class Submitit(Executor):
    """Submits runs that are not in the queue yet, through submitit's executor, whose folder stores their jobs."""

    def __init__(self, executor: "submitit.Executor") -> None:
        self.executor = executor
        self._record = Path(executor.folder) / "jobs.json"  # so that a queued run is not submitted again
        self._new: dict[RunTask, Job] = {}
        self._queue: set[str] | None = None
        self._asked = -math.inf

    def submit(self, task: RunTask) -> "Job":  # type: ignore[override]  # not a Future: other processes wait for it too
        """Submit a run within `batch`, unless an earlier command has."""
        known = read_json(self._record, missing={}).get(task.log)
        if known and not task.once:
            job = Job(self, self.executor.job_class(self.executor.folder, known), listed=True)
            if not job.done():
                return job
        self._new[task] = Job(self, None, listed=False)
        return self._new[task]

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Submit the runs of the block as one array."""
        yield
        if not self._new:
            return
        with self.executor.batch():
            for task, job in self._new.items():
                job.job = self.executor.submit(_Requeued(task))
        ids = {task.log: job.of_submitit.job_id for task, job in self._new.items()}
        self._record.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(read_json(self._record, missing={}) | ids, indent=2))
        print(f"  {len(ids)} runs submitted. Ctrl-C leaves them queued; the same command waits again.", flush=True)
        self._new = {}

    def queue(self) -> set[str] | None:
        """Return the jobs of this user; None where SLURM has not answered yet."""
        if time.monotonic() - self._asked >= SLURM_SECONDS:
            command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
            listed = subprocess.run(command, capture_output=True, text=True)
            if listed.returncode != 0:  # SLURM does not answer for a while
                return self._queue
            self._queue, self._asked = set(listed.stdout.split()), time.monotonic()
        return self._queue


class Job:
    """A submitted run, asked as a Future is."""

    def __init__(self, executor: Submitit, job: "submitit.Job[int] | None", listed: bool) -> None:
        self.executor, self.job = executor, job
        self._listed_at = time.monotonic() + (0.0 if listed else SLURM_SECONDS)  # by squeue, if it has not ended

    @property
    def of_submitit(self) -> "submitit.Job[int]":
        assert self.job is not None  # after `batch`
        return self.job

    def done(self) -> bool:
        """Whether it has ended. submitit uses `sacct`, which needs a database that some clusters lack."""
        from submitit import SlurmJob

        job = self.of_submitit
        if not isinstance(job, SlurmJob):
            return job.done()
        if job.paths.result_pickle.is_file():
            return True
        queue = self.executor.queue()
        return queue is not None and time.monotonic() >= self._listed_at and job.job_id not in queue

    def result(self) -> int:
        return self.of_submitit.result()

    def cancel(self) -> bool:
        return False


class _Requeued:
    """A run as submitit calls it: stopped when it is pre-empted, and submitted again."""

    def __init__(self, task: RunTask) -> None:
        self.task = task
        self._child: subprocess.Popen[bytes] | ForkedRun | None = None

    def __call__(self) -> int:
        preempt = preemption_signal()
        # SLURM sends submitit's signal to every process of the task, which would end the child before it starts.
        before = signal.signal(preempt, signal.SIG_IGN)
        self._child = child = self.task.start()
        signal.signal(preempt, before)
        status = child.wait()
        if status == STOPPED:  # by SIGTERM, which submitit ignores
            signal.raise_signal(preempt)
        return status

    def checkpoint(self) -> Any:
        """Let `fit` write its state; return what the requeued task will call."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            # Not by Popen's methods: this runs within its `wait`, whose lock is taken.
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child.pid, signal.SIGUSR1)
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(_Requeued(self.task))


def dask(address: str | None = None, **settings: Any) -> Executor:
    """Return the executor of the Dask scheduler at an address, or of a new one here; `settings` as of its `Client`."""
    need("dask", "distributed", what="--executor dask")
    from distributed import Client

    return Client(address, **settings).get_executor(pure=False)  # a run that is submitted again trains again


class _Ray(Executor):
    def __init__(self, remote: Any) -> None:
        self.remote = remote

    def submit(self, task: RunTask) -> Future[int]:  # type: ignore[override]  # nothing else is submitted
        return self.remote.remote(task).future()


def ray(address: str | None = None, **settings: Any) -> Executor:
    """Return the executor of the Ray cluster at an address, like `auto`, or of a new one; options of `ray.remote`."""
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
        return build(**values)
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise ValueError(f"--executor {' '.join([name, *settings])}: {error}") from error


# ---- a process that forks into a run at each request, with all imported that runs need, which takes five seconds.
# `compare` forks it before it computes anything, so the process of a run is as a new `python -m vitlab fit …`: its own
# session, output and threads. Where a GPU is used, and outside of Linux, runs are new processes.

LARGEST = 65_536  # bytes of a request


class ForkServer:
    """Starts runs for the process that made it, and ends with it; the runs go on.

    In the process of a run the constructor calls `run` with the command and its other arguments, and never returns.
    """

    def __init__(self, run: Callable[[str, Sequence[str]], int]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # `inspect`, by which jsonargparse reads signatures, shall see the code that runs though its file has changed.
        for file in {str(getattr(module, "__file__", None)) for module in list(sys.modules.values())}:
            if file.endswith(".py") and "site-packages" not in file and not file.startswith(sys.base_prefix):
                lines = linecache.getlines(file)
                linecache.cache[file] = sum(map(len, lines)), None, lines, file  # None: is not compared with the file
        sys.stdout.flush()  # or each fork would print it again
        sys.stderr.flush()
        self._process = os.fork()
        if self._process == 0:
            self._requests.close()
            os.setsid()  # Ctrl-C reaches the study's process alone
            end_with(partial(_run, run, *_serve(theirs)))
        theirs.close()

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], log: int) -> "ForkedRun":
        """Start `python -m vitlab ARGUMENTS` with its output in the log, a file descriptor."""
        answers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            request = json.dumps([[*arguments], {**environment}]).encode()
            socket.send_fds(self._requests, [request], [log, theirs.fileno()])
        return ForkedRun(answers)

    def close(self) -> None:
        self._requests.close()
        os.waitpid(self._process, 0)


class ForkedRun:
    """The process of a run. Its parent is a process of the server that waits for it."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self.pid = self._answer()

    def _answer(self) -> int:
        if not (answer := self._answers.recv(32)):
            raise ChildProcessError("the process that starts runs was killed")
        return int(answer)

    def wait(self) -> int:
        """Return the exit status, -n after signal n; to be called once."""
        with self._answers:
            return self._answer()


def _serve(requests: socket.socket) -> tuple[list[str], dict[str, str]]:
    """Return a request in the process of its run. The end of the requests ends the server."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the parents of runs
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 2)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log, answer_to = descriptors
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    with socket.socket(fileno=answer_to) as answers:
        if child := os.fork():
            try:
                answers.send(str(child).encode())
                _, status = os.waitpid(child, 0)
                answers.send(str(os.waitstatus_to_exitcode(status)).encode())
            finally:  # also where nobody listens any more
                os._exit(0)
    os.setsid()
    arguments, environment = json.loads(request)
    return arguments, environment


def _run(run: Callable[[str, Sequence[str]], int], arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command as a new process would."""
    import torch
    from threadpoolctl import threadpool_limits  # which scikit-learn needs

    import vitlab

    vitlab.BEGAN = time.perf_counter()
    os.environ.update(environment)
    if threads := environment.get("OMP_NUM_THREADS"):  # which libraries have read when they were loaded
        threadpool_limits(int(threads))
        torch.set_num_threads(int(threads))
    for stream in (sys.stdout, sys.stderr):
        cast(TextIOWrapper, stream).reconfigure(write_through=True)  # so that the log can be followed
    sys.argv[1:] = arguments
    return run(arguments[0], arguments[1:])
