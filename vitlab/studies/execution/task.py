"""A run as a task of a cluster calls it. Each task reads this file before anything starts, so it imports little."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlab.internals import preemption_signal

STOPPED = 75  # the exit status of a `fit` that was asked to stop; the same command continues it


class Training:
    """One run, as a task calls it. It is pickled for that, so it holds nothing but strings.

    Args:
        command: The command line that trains.
        log: Where its output goes.
        once: Arguments of the first start alone.
    """

    def __init__(self, command: Sequence[str], log: str, once: Sequence[str] = ()) -> None:
        self.command, self.log, self.once = list(command), log, list(once)
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Train, and return the exit status."""
        asked = preemption_signal()
        with Path(self.log).open("a", encoding="utf-8") as log:
            # SLURM sends the signal that is submitit's to every process of the task, and it would end this one.
            before = signal.signal(asked, signal.SIG_IGN)
            self._child = subprocess.Popen(
                [*self.command, *self.once], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            signal.signal(asked, before)
            status = self._child.wait()
        if status == STOPPED:  # of SLURM's SIGTERM, which submitit passes over
            signal.raise_signal(asked)
        return status

    def checkpoint(self) -> Any:
        """Let `fit` write its state; return what the requeued task calls."""
        from submitit.helpers import DelayedSubmission

        if self._child is not None:
            # Not Popen's own: this runs within its `wait`, whose lock is taken.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._child.pid, signal.SIGUSR1)
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Training(self.command, self.log))
