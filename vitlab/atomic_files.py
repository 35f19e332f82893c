"""Files that are whole or not there, whatever happens while they are written; below everything else."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vitlab.internals import pickled_name

T = TypeVar("T")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing under a temporary name: flushed to disk when complete, then renamed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with created(temporary, lambda: temporary.open("wb")) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # a full disk
            error.filename = str(path)
        raise


def created(path: Path, opened: Callable[[], T]) -> T:
    """Create the folder of a file and open the file.

    A process whose start failed removes the folders that it created, where they are empty. If that comes in between,
    both are done again.
    """
    for _ in range(3):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return opened()
    path.parent.mkdir(parents=True, exist_ok=True)
    return opened()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all."""
    with written_whole(path) as file:
        file.write(text.encode())


def regular(path: Path) -> Path:
    """Return the path of a file; refuse a device or a pipe, which may have no end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file. Remove it, and give the same command again.")
    return path


def read_json(path: Path, remedy: str = "Remove it, and give the same command again.", missing: Any = None) -> Any:
    """Return the content of a JSON file, by default a dict; `missing`, of the same type, where there is no file."""
    if missing is not None and not path.is_file():
        return missing
    regular(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict if missing is None else type(missing)):
            raise ValueError(f"a {type(content).__name__} is not what it contains")
        return content
    except (ValueError, RecursionError) as error:  # of JSON or of UTF-8
        raise ValueError(f"{path} is damaged ({error}). {remedy}") from None


def read_cache(path: Path, missing: Any) -> Any:
    """Return the content of a JSON file that can be computed again, or `missing` where it is missing or damaged."""
    try:
        return read_json(path, missing=missing)
    except ValueError:
        return missing


def flaw(path: Path) -> str | None:
    """Return what is wrong with a file that `torch.save` wrote, or None.

    It is a zip archive with a CRC-32 of each entry, which `torch.load` does not compare where it maps the file into
    memory. What is outside the entries, `torch.load` must understand.
    """
    import torch  # here: what only writes files starts in a fifth of the time without

    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever two readers can say of a damaged archive
        if culprit := pickled_name(error):
            return f"it contains {culprit} besides tensors, which reading could run as code"
        return (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
    return None if damaged is None else f"the checksum of {damaged} is wrong"
