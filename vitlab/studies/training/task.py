"""A run as a task that any executor may call: its own process. Workers import this file, so it imports little."""

import os
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitlab.config import IMPORT
from vitlab.signals import UNWRITTEN

FULL_SECONDS = 60.0  # for which a machine without room takes no run


class RunTask:
    """One run, to be called where it trains. It is pickled, so it has nothing but strings and its seed.

    Args:
        command: The command line that trains.
        log: File for its output.
        seed: Runs of one seed are compared, so they should train on machines of one kind.
        once: Arguments for the first start only, before which there is no log: what replaces an earlier run, or a task
            that is submitted again would.
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
