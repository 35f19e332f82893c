"""How the runs of a study share this machine.

The number of parallel runs is the study's `jobs`, by default one per GPU, or one per core on a CPU. On a CPU the cores
are divided equally through OMP_NUM_THREADS; with several GPUs each run sees one of them. Many single-threaded runs are
faster than one run with many threads: the threads of a small model mostly wait for each other, on a busy machine ten
times as long as they compute.
"""

import math
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import torch
from referee.formats import counted

from vitlab.studies.file.runs import Run


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
