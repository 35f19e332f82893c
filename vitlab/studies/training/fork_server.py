"""A process that forks into a run at each request: it has imported what runs need, which takes five seconds or more.

`compare` forks it before it computes anything, so the process of a run is as a new `python -m vitlab fit …`: its own
session, output and threads. Where a GPU is used, and outside of Linux, runs are new processes.
"""

import json
import linecache
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import TextIOWrapper
from typing import cast

from vitlab.internals import end_fork

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
            end_fork(partial(_run, run, *_serve(theirs)))
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
