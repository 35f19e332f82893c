"""A run as a task of a SLURM array. Every task imports this file first, so it imports little."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlab.internals import preemption_signal
from vitlab.signals import STOPPED


class RunTask:
    """One run, to be called by a task. It is pickled, so it has nothing but strings.

    Args:
        command: The command line that trains.
        log: File for its output.
        once: Arguments for the first start only.
    """

    def __init__(self, command: Sequence[str], log: str, once: Sequence[str] = ()) -> None:
        self.command, self.log, self.once = list(command), log, list(once)
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train, and return the exit status."""
        preempt = preemption_signal()
        with Path(self.log).open("a", encoding="utf-8") as log:
            # SLURM sends submitit's signal to every process of the task, which would end the child before it starts.
            before = signal.signal(preempt, signal.SIG_IGN)
            self._child = subprocess.Popen(
                [*self.command, *self.once], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
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
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child.pid, signal.SIGUSR1)
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(RunTask(self.command, self.log))
