"""Where a study's runs train: an executor of `concurrent.futures`, of this machine or of many.

`compare --executor` takes the name of a function below, or the import path of any class or function that returns an
object with `submit`, such as `mpi4py.futures.MPIPoolExecutor`. What is submitted is a `RunTask`.
"""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from importlib import import_module
from queue import SimpleQueue
from typing import Any

from vitlab.experiment.errors import need
from vitlab.signals import STOPPED
from vitlab.studies.training.slots import Slots
from vitlab.studies.training.slurm import slurm
from vitlab.studies.training.task import RunTask

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
        """Train a run as soon as a slot is free."""
        return self._threads.submit(self._train, task)

    def _train(self, task: RunTask) -> int:
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

    Args:
        executors: In turn for the seeds; one that is there twice gets twice as many.
        seeds: Of the study, in order, so that a seed that was begun comes back to its machines.
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
    """Return the executor of a Dask cluster.

    Args:
        address: Of its scheduler, like `tcp://host:8786`; null: a cluster of worker processes on this machine.
        settings: Other arguments of `distributed.Client`, such as `n_workers` of a local cluster.
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
    """Return the executor of a Ray cluster.

    Args:
        address: Of its head, like `auto`; null: a cluster on this machine.
        settings: What a run needs, options of `ray.remote` such as `num_cpus`, `num_gpus`, `max_retries`.
    """
    need("ray", "ray", what="--executor ray")
    import ray as package

    package.init(address, ignore_reinit_error=True, log_to_driver=False)
    return _Ray(package.remote(**{"num_cpus": 1} | settings)(RunTask.__call__))


def new_executor(name: str, settings: Sequence[str]) -> Executor:
    """Return the executor that `--executor NAME KEY=VALUE …` names.

    Raises:
        ValueError: no such executor, a package is missing, or it rejects a setting.
    """
    short: dict[str, Callable[..., Executor]] = {"slurm": slurm, "dask": dask, "ray": ray}
    module, _, attribute = name.rpartition(".")
    try:
        build = short.get(name) or getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--executor {name}: {error}. Give {', '.join(short)}, or an import path, like "
            "mpi4py.futures.MPIPoolExecutor."
        ) from None
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
