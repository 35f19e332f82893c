"""One writer for each run directory: a second start of the same run is refused while the first is running.

The lock is a POSIX record lock on the file `.lock` in the directory. The kernel releases it when the process ends, in
whatever way, so no stale lock is left behind. Forked data-loader workers do not inherit it; a lock by `flock`, as the
package filelock takes, would stay held until the last orphaned worker is gone. On NFS it holds between machines. The
text of the file only names the holder in the message, so that a copied run directory is not locked.

Some file systems have no locks (Lustre without the mount option `flock`). There the text decides: its process must be
alive or, on another machine, must have touched the file a moment ago.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
SECONDS_BETWEEN_TOUCHES = 30.0
SECONDS_TO_SETTLE = 1.0  # two starts at once, where there are no locks: the one that wrote last goes on


@dataclass(frozen=True)
class Holder:
    """The process that writes a run directory, as its file `.lock` says."""

    host: str
    pid: int
    born: str | None  # tells the process from a later one with the same number
    since: str
    command: str
    inode: int  # of the directory: in a copy, the file speaks of another one

    @classmethod
    def this_process(cls, directory: Path) -> "Holder":
        """Describe the process that asks."""
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            born=_born(os.getpid()),
            since=datetime.now().astimezone().isoformat(" ", "seconds"),
            command=" ".join(["python -m vitlab", *sys.argv[1:]]),
            inode=directory.stat().st_ino,
        )


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Let no other process write to a run directory inside the block; the directory is made if it does not exist.

    Where this process may not write, as in a finished run of somebody else, there is nothing to hold.

    Raises:
        ValueError: another process is writing to it.
    """
    made = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    release: Callable[[], None] | None = None
    try:
        release = _take(directory / ".lock")
    except OSError:
        if os.access(directory, os.W_OK):
            raise
    try:
        yield
    finally:
        if release is not None:
            release()
        for folder in made:  # a start that failed leaves nothing
            with suppress(OSError):  # not empty
                folder.rmdir()


def _take(path: Path) -> Callable[[], None]:
    """Lock the file and return what releases it. While it is locked, this process must not open it a second time:
    POSIX releases the lock when any of its descriptors is closed."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if error.errno in NO_LOCKS:
                return _claim(path)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _refusal(path) from None
            raise
        if path.exists() and path.stat().st_ino == os.fstat(file).st_ino:
            break
        os.close(file)  # its holder ended between the two calls, and removed it
    os.truncate(file, 0)
    os.write(file, _text(path))
    os.fsync(file)

    def release() -> None:
        path.unlink(missing_ok=True)
        os.close(file)

    return release


def _claim(path: Path) -> Callable[[], None]:
    """Write our name into the file, where there are no locks, and touch it until the returned function is called."""
    ours = _text(path)
    new = path.with_name(f".lock.{os.getpid()}")
    new.write_bytes(ours)
    holder, age = _holder(path), new.stat().st_mtime - path.stat().st_mtime  # by one clock, the file server's
    if holder is not None and _is_running(holder, age):
        new.unlink()
        raise _refusal(path)
    new.replace(path)
    time.sleep(SECONDS_TO_SETTLE)
    if path.read_bytes() != ours:
        raise _refusal(path)
    ended = Event()

    def touch() -> None:
        while not ended.wait(SECONDS_BETWEEN_TOUCHES):
            with suppress(OSError):
                os.utime(path)

    Thread(target=touch, daemon=True).start()

    def release() -> None:
        ended.set()
        path.unlink(missing_ok=True)

    return release


def _text(path: Path) -> bytes:
    return json.dumps(asdict(Holder.this_process(path.parent))).encode()


def _holder(path: Path) -> Holder | None:
    """Return who wrote the file; None where it is empty, as after its creation, or came here with a copied run."""
    try:
        holder = Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return holder if holder.inode == path.parent.stat().st_ino else None


def _is_running(holder: Holder, age: float) -> bool:
    if holder.host == socket.gethostname() and holder.born is not None:
        return _born(holder.pid) == holder.born
    return age < 3 * SECONDS_BETWEEN_TOUCHES


def _born(pid: int) -> str | None:
    """Return when a running process of this machine began, in the kernel's ticks; None also where there is no /proc."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state == "Z" else rest[18]


def _refusal(path: Path) -> ValueError:
    holder = _holder(path)
    who = "another process"
    if holder is not None:
        command = textwrap.shorten(holder.command, 100, placeholder=" …")
        who = f"process {holder.pid} on {holder.host} since {holder.since} ({command})"
    return ValueError(
        f"{path.parent} is being written by {who}.\nWait for it, stop it, or give this run another --run.name."
    )
