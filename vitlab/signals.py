"""What a signal does to a command: it ends with a status that shells and schedulers know, and leaves nothing behind."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# EX_CANTCREAT and EX_TEMPFAIL of sysexits.h: results could not be written, as on a full disk, and what schedulers start
# again; and the status that shells expect for Ctrl-C.
UNWRITTEN, STOPPED, PAUSED, INTERRUPTED = 73, 75, 76, 130
SIGNALS = {
    signal.SIGTERM: STOPPED,
    signal.SIGHUP: STOPPED,  # the terminal or the ssh session was closed
    signal.SIGUSR1: STOPPED,  # SLURM's --signal
    signal.SIGINT: INTERRUPTED,
}


@contextmanager
def signals_as_exit() -> Iterator[None]:
    """Turn signals into SystemExit inside the block, so that locks are released and processes ended on the way out.

    A training handles them itself, from its first step on: it has a state to write.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(SIGNALS[signal.Signals(number)])

    before = {number: signal.signal(number, leave) for number in SIGNALS if not is_ignored(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_ignored(number: signal.Signals) -> bool:
    """Return whether a signal is ignored from outside: SIGHUP by nohup, SIGINT by a shell for what runs behind it."""
    return signal.getsignal(number) == signal.SIG_IGN
