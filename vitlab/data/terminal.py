"""Progress on a terminal, in one line that is overwritten. Nothing is written to files and pipes."""

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def show(line: str) -> None:
    """Replace the line that was shown last; an empty one erases it."""
    if sys.stderr.isatty():
        columns = shutil.get_terminal_size().columns - 1  # of a line that wraps only the end would be replaced
        print(f"\r\x1b[K{line[:columns]}", end="", file=sys.stderr, flush=True)


def counted(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """Yield the items, and show ten times a second which percentage of `total` is done."""
    shown = -1.0
    try:
        for done, item in enumerate(items):
            if (now := time.monotonic()) - shown >= 0.1:
                shown = now
                show(f"{what}: {done / total:.0%}")
            yield item
    finally:
        show("")
