"""Who is writing below a folder of runs: a study waits for a run that is busy, and two of one study are refused."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vitlab.runs.lock import Busy, check_idle, run_lock


def writer_of(directory: Path) -> str | None:
    """Return which process is writing to a run directory, in a sentence; None where none is."""
    try:
        check_idle(directory)
    except Busy as busy:
        return str(busy).partition("\n")[0].removesuffix(".")
    return None


@contextmanager
def study_lock(folder: Path) -> Iterator[None]:
    """Let no other process run the study of a folder inside the block; a missing folder is created.

    Raises:
        Busy: another one does.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(run_lock(folder))
        except Busy as busy:
            writer = str(busy).partition("\n")[0]
            raise Busy(f"{writer}\nWait for it, stop it, or give this study another `name`.") from None
        yield
