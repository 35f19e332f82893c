"""The check before training that every photograph can be decoded, with its progress on a terminal.

Its results are cached.
"""

import hashlib
import io
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import PIL
import simplejpeg
from PIL import Image, ImageFile

from vitlab.atomic_files import written_whole
from vitlab.data.decoding import FORMATS, LEAST_SIDE, MOST_RATIO, SIXTEEN_BIT, Pixels

_CHUNK = 32  # files that a thread decodes before it reports
_LEVELS = 32  # of 256: a 16-bit picture with fewer uses less than an eighth of its range
# A file that can be decoded: its name, size and time; a hash of its bytes; and whether `is_faint`.
_RECORD = np.dtype([("mark", np.uint64), ("content", np.uint64), ("faint", np.bool_)])


class Check(NamedTuple):
    """What is known of N photographs."""

    broken: dict[str, str]  # names of those that cannot be decoded, and why
    listing: Path | None  # of all of them
    contents: np.ndarray  # (N,) uint64, equal where the bytes are equal; 0: broken or unknown
    faint: list[str]  # names of 16-bit photographs that 8 bits leave nearly blank


def cache_of(kind: str, key: str, suffix: str) -> Path:
    """Return the file of the user's cache for `key`."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitlab"
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}{suffix}"


Read = Callable[[str], tuple[Pixels, bytes]]
Examined = tuple[int, bool] | str  # a hash of the bytes and whether the picture `is_faint`; or why it is broken


def check_all(place: Path | str, names: Sequence[str], marks: Sequence[str], read: Read) -> Check:
    """Decode every photograph once.

    Args:
        place: a folder, or another source of photographs; each has its own cache.
        marks: of each name, a text that changes with the photograph; "" is always decoded again.
        read: returns a photograph's pixels and its bytes, or raises ValueError or OSError with the reason.
    """
    cache = cache_of("decoded", str(place.resolve()) if isinstance(place, Path) else place, ".npy")
    numbers = np.fromiter(map(_number, names, marks), np.uint64, len(names))
    known, records = _read(cache), np.zeros(len(names), _RECORD)
    good = np.zeros(len(names), dtype=bool)
    if len(known):
        cached = known["mark"].copy()  # contiguous: millions are searched in a second
        order = np.argsort(cached)
        places = order[np.searchsorted(cached, numbers, sorter=order).clip(max=len(known) - 1)]
        good = cached[places] == numbers
        records[good] = known[places[good]]
    new = np.flatnonzero(~good).tolist()
    broken: dict[str, str] = {}
    try:
        for index, result in _examine_all(names, read, new):
            if isinstance(result, str):
                broken[names[index]] = result
            else:
                good[index] = True
                records[index] = (numbers[index], *result)
    finally:  # an interrupted check continues later
        if new:
            _write(cache, broken, records[good], place)
    faint = [names[index] for index in np.flatnonzero(records["faint"]).tolist()]
    return Check(broken, cache.with_suffix(".txt"), records["content"], faint)


def content_of(data: bytes) -> int:
    """Return a hash of 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def is_faint(file: Path | BinaryIO, pixels: Pixels) -> bool:
    """Return whether a file has 16 bits per channel but uses so little of the range that its 8-bit `pixels` are blank.

    Pictures are not stretched one by one, because others of the data set may use the whole range.
    """
    levels = int(np.ptp(pixels))
    if levels >= _LEVELS:
        return False
    try:
        with Image.open(file, formats=FORMATS) as image:
            # Pillow gives colors in 8 bits, and only the decoder's argument shows that the file has more.
            deep = isinstance(image, ImageFile.ImageFile) and any(";16" in str(tile.args) for tile in image.tile)
            if image.mode not in SIXTEEN_BIT:
                return deep
            return bool(np.ptp(np.asarray(image).astype(np.int64)) > levels)  # else it is one value in the file too
    except Exception:  # of a JPEG that only simplejpeg reads
        return False


def _examine_all(names: Sequence[str], read: Read, indices: list[int]) -> Iterator[tuple[int, Examined]]:
    """Yield each index with its result."""

    def examine(index: int) -> Examined:
        try:
            pixels, content = read(names[index])
            return content_of(content), is_faint(io.BytesIO(content), pixels)
        except (ValueError, OSError) as error:
            return str(error)

    chunks = [indices[i : i + _CHUNK] for i in range(0, len(indices), _CHUNK)]
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())  # decoders release the interpreter's lock
    try:
        done = zip(chunks, pool.map(lambda chunk: list(map(examine, chunk)), chunks), strict=True)
        for chunk, results in counted(done, len(chunks), "Checking images"):
            yield from zip(chunk, results, strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _number(name: str, mark: str) -> int:
    """Hash a photograph's name and mark, and the version of the decoders; 0 is always decoded again."""
    rules = f"{PIL.__version__}\0{simplejpeg.__version__}\0{LEAST_SIDE}\0{MOST_RATIO}"
    return content_of(os.fsencode(f"{rules}\0{mark}\0{name}")) if mark else 0


def _read(cache: Path) -> np.ndarray:
    try:
        known = np.load(cache, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing or truncated
        return np.empty(0, _RECORD)
    return known if known.dtype == _RECORD else np.empty(0, _RECORD)  # an earlier version's


def _write(cache: Path, broken: dict[str, str], records: np.ndarray, place: Path | str) -> None:
    """Write the records, atomically; without a writable cache the next start checks again."""
    lines = [f"{os.path.join(place, name)}: {why}\n" for name, why in broken.items()]
    with suppress(OSError), written_whole(cache) as file:  # which makes the folder
        cache.with_suffix(".txt").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        np.save(file, records)


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
