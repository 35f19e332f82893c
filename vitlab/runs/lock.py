"""One writer for each run directory: a second start of a run is rejected while the first is running.

The lock is a POSIX record lock on the file `.lock` in the directory. The kernel releases it when the process ends, for
whatever reason, so that no stale lock remains. Forked data-loader workers do not inherit it; a lock by `flock`, which
the package filelock uses, would be kept until the last orphaned worker has ended. On NFS it works between machines. The
content of the file only names the owner in the message, so that a copied run directory is not locked.
"""

import errno
import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from textwrap import shorten

from vitlab import log
from vitlab.atomic_files import created

RENAME = "give this run another --run.name"
_HELD: dict[Path, int] = {}  # inodes of the lock files of this process, by directory


class Busy(ValueError):
    """Another process is writing to the directory."""


@contextmanager
def run_lock(directory: Path, way_out: str = RENAME) -> Iterator[None]:
    """Let no other process write to a run directory inside the block; a missing directory is created.

    Raises Busy where another process is writing.
    """
    missing = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    path, file = directory / ".lock", None
    try:
        # POSIX releases the lock when this process closes any descriptor of the file: it is opened once.
        while file is None or _inode(path) != os.fstat(file).st_ino:
            if file is not None:  # its owner ended between the two calls, and removed it
                os.close(file)
                file = None
            file = created(path, lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    raise _rejection(path, way_out) from None
                log.warning("%s has no file locks (%s): a second start is not noticed.", directory, error)
        command = shorten(" ".join(["python -m vitlab", *sys.argv[1:]]), 100, placeholder=" …")
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since} ({command})".encode())
        os.fsync(file)
        _HELD[directory] = os.fstat(file).st_ino
        yield
    finally:
        if file is not None:
            if directory in _HELD and _inode(path) == _HELD.pop(directory):  # else another has made the folder anew
                path.unlink()
            os.close(file)
        for folder in missing:  # nothing stays behind after a start that failed
            with suppress(OSError):
                folder.rmdir()


def check_idle(directory: Path) -> None:
    """Raise Busy if a process writes to a run directory; unlike `run_lock`, change nothing there."""
    path = directory / ".lock"
    if _inode(path) in _HELD.values():  # opening and closing it would release the lock
        raise Busy(f"{directory} is being written by this process.")
    if path.is_file():
        try:
            with path.open("rb") as file:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _rejection(path, RENAME) from None


def _rejection(path: Path, way_out: str, writer: str = "another process") -> Busy:
    with suppress(OSError):
        writer = path.read_text(encoding="utf-8", errors="replace") or writer
    return Busy(f"{path.parent} is being written by {writer}.\nWait for it, stop it, or {way_out}.")


def check_held(directory: Path) -> None:
    """Raise OSError if a run directory that this process has locked was removed, and perhaps made anew by another."""
    if directory in _HELD and _inode(directory / ".lock") != _HELD[directory]:
        what = "the run's folder was removed while the run wrote to it. The same command begins it again"
        raise OSError(errno.ESTALE, what, str(directory))


def _inode(path: Path) -> int | None:
    with suppress(OSError):
        return path.stat().st_ino
    return None


def refuse_links(folder: Path, root: Path) -> None:
    """Raise a ValueError if a run's or study's folder leads out of its root by a link, or what is in it, out of it.

    Whoever gave the folder away chose where the link leads, and what is written there. `root` itself may be a link.
    """
    top, here = os.path.realpath(root), os.path.realpath(folder)
    walked = ((at, names) for at, *names in os.walk(folder) if "wandb" not in Path(at).relative_to(folder).parts)
    inside = (Path(at, name) for at, (folders, files) in walked for name in (*folders, *files))  # W&B links to its logs
    out = [path for path in inside if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(here)]
    if out := out if Path(here).is_relative_to(top) else [folder]:
        raise ValueError(f"{out[0]} leads to {os.path.realpath(out[0])}; nothing is written through a link. Remove it.")
