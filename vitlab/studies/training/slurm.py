"""Train a study's runs as a SLURM array, through submitit.

When a task is pre-empted or reaches its time limit, `fit` writes its state and the task returns to the queue, where it
continues. Ctrl-C leaves the array in the queue; the same command finds its tasks and waits again.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlab.atomic_files import read_json
from vitlab.experiment.errors import need
from vitlab.internals import preemption_signal
from vitlab.signals import STOPPED
from vitlab.studies.training.executors import RunTask

if TYPE_CHECKING:
    import submitit

UNLIMITED = 1_000_000  # requeues at the time limit
POLL_SECONDS = 5.0  # between two questions to SLURM


def slurm(folder: str = "runs/slurm", **settings: Any) -> "Submitit":
    """Return the executor that submits to SLURM, with submitit's files in a folder.

    `settings` are what the cluster requires, such as `partition=gpu`, `time=240` (minutes), `gpus_per_node=1`:
    arguments of submitit's `SlurmExecutor.update_parameters`, named as those of `sbatch`.
    """
    if not isinstance(settings.get("time", 0), int):
        raise ValueError(f"time must be an integer (minutes), got {settings['time']}.")
    need("slurm", "submitit", what="--executor slurm")
    from submitit import SlurmExecutor

    for tool in ("sbatch", "srun", "squeue"):
        if shutil.which(tool) is None:
            raise ValueError(f"{tool} not found. Start the study on a machine that submits SLURM jobs.")
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
        """Return the jobs of this user that are queued or running; None where SLURM has not answered yet."""
        if time.monotonic() - self._asked >= POLL_SECONDS:
            listed = subprocess.run(
                ["squeue", "--me", "--array", "--noheader", "--format=%i"], capture_output=True, text=True
            )
            if listed.returncode != 0:  # SLURM does not answer for a while
                return self._queue
            self._queue, self._asked = set(listed.stdout.split()), time.monotonic()
        return self._queue


class Job:
    """A submitted run, asked as a Future is."""

    def __init__(self, executor: Submitit, job: "submitit.Job[int] | None", listed: bool) -> None:
        self.executor, self.job = executor, job
        self._listed_at = time.monotonic() + (0.0 if listed else POLL_SECONDS)  # by squeue, if it has not ended

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
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        preempt = preemption_signal()
        # SLURM sends submitit's signal to every process of the task, which would end the child before it starts.
        before = signal.signal(preempt, signal.SIG_IGN)
        self._child = self.task.start()
        signal.signal(preempt, before)
        status = self._child.wait()
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
