"""The check before training that every photograph can be decoded. Its results are cached."""

import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import PIL
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from vitlab.atomic_files import written_whole
from vitlab.data.decoding import FORMATS, LEAST_SIDE, MOST_RATIO, SIXTEEN_BIT, Pixels, has_deep_colors

LEAST_HASHED = 32  # pixels: the shorter side
_CHUNK = 32  # files that a thread decodes before it reports
_LEVELS = 32  # of 256: a 16-bit picture with fewer uses less than an eighth of its range
# A file that can be decoded: its name, size and time; a hash of its bytes; whether `is_faint`; and its `dhash_of`.
_RECORD = np.dtype([("mark", np.uint64), ("content", np.uint64), ("faint", np.bool_), ("dhash", np.uint8, 32)])


class Check(NamedTuple):
    """What is known of N photographs."""

    broken: dict[str, str]  # names of those that cannot be decoded, and why
    listing: Path | None  # of all of them
    contents: np.ndarray  # (N,) uint64, equal where the bytes are equal; 0: broken or unknown
    faint: list[str]  # names of 16-bit photographs that 8 bits leave nearly blank
    dhashes: np.ndarray  # (N, 32) uint8, see `dhash_of`; 0: broken or unknown


def cache_of(kind: str, key: str, suffix: str) -> Path:
    """Return the file of the user's cache for `key`."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitlab"
    return folder / f"{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}{suffix}"


def check_all(
    place: Path | str, names: Sequence[str], marks: Sequence[str], read: Callable[[str], tuple[Pixels, bytes]]
) -> Check:
    """Decode every photograph once.

    Args:
        place: a folder, or another source of photographs; each has its own cache.
        marks: of each name, a text that changes with the photograph; "" is always decoded again.
        read: returns a photograph's pixels and its bytes, or raises ValueError or OSError with the reason.
    """
    cache = cache_of("decoded", str(place.resolve()) if isinstance(place, Path) else place, ".npy")
    numbers = np.fromiter(map(_number, names, marks), np.uint64, len(names))
    known, records, good = np.empty(0, _RECORD), np.zeros(len(names), _RECORD), np.zeros(len(names), bool)
    with suppress(OSError, ValueError, EOFError):  # missing or truncated
        known = np.load(cache, allow_pickle=False)
    if len(known) and known.dtype == _RECORD:  # else an earlier version's
        cached = known["mark"].copy()  # contiguous: millions are searched in a second
        order = np.argsort(cached)
        places = order[np.searchsorted(cached, numbers, sorter=order).clip(max=len(known) - 1)]
        good = cached[places] == numbers
        records[good] = known[places[good]]
    new = np.flatnonzero(~good).tolist()
    broken: dict[str, str] = {}

    def examine(index: int) -> tuple[Any, ...] | str:
        try:
            pixels, content = read(names[index])
            return numbers[index], content_of(content), is_faint(io.BytesIO(content), pixels), dhash_of(pixels)
        except (ValueError, OSError) as error:
            return str(error)

    chunks = [new[i : i + _CHUNK] for i in range(0, len(new), _CHUNK)]
    pool = ThreadPoolExecutor(max_workers=os.cpu_count())  # decoders release the interpreter's lock
    try:
        done = zip(chunks, pool.map(lambda chunk: list(map(examine, chunk)), chunks), strict=True)
        for chunk, results in tqdm(done, "Checking images", len(chunks), leave=False, disable=None):
            for index, result in zip(chunk, results, strict=True):
                if isinstance(result, str):
                    broken[names[index]] = result
                else:
                    good[index], records[index] = True, result
    finally:  # an interrupted check continues later
        pool.shutdown(cancel_futures=True)
        if new:
            lines = [f"{os.path.join(place, name)}: {why}\n" for name, why in broken.items()]
            with suppress(OSError), written_whole(cache) as file:  # which makes the folder; else all are checked again
                cache.with_suffix(".txt").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
                np.save(file, records[good])
    faint = [names[index] for index in np.flatnonzero(records["faint"]).tolist()]
    return Check(broken, cache.with_suffix(".txt"), records["content"], faint, records["dhash"])


def content_of(data: bytes) -> int:
    """Return a hash of 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def dhash_of(pixels: Pixels) -> UInt8[np.ndarray, "32"]:
    """Return the difference hash: which of 9 × 9 fields are brighter than their neighbors, and which darker.

    Other encodings, sizes and brightness change few of them, another crop most. Small pictures have too little in them
    to differ: theirs is 0.
    """
    if min(pixels.shape[:2]) < LEAST_HASHED:
        return np.zeros(32, np.uint8)
    images = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    small = F.interpolate(images, (72, 72), mode="bilinear", antialias=True)  # 8-bit values, of which means have more
    fields = F.avg_pool2d(small.float().mean(dim=1), 8)[0]  # (9, 9)
    steps = torch.cat([fields[:8].diff(dim=1).flatten(), fields[:, :8].diff(dim=0).flatten()]).numpy()
    return np.packbits([steps > 0, steps < 0])


def is_faint(file: Path | BinaryIO, pixels: Pixels) -> bool:
    """Return whether a file has 16 bits per channel but uses so little of the range that its 8-bit `pixels` are blank.

    Pictures are not stretched one by one, because others of the data set may use the whole range.
    """
    levels = int(np.ptp(pixels))
    if levels >= _LEVELS or pixels.dtype != np.uint8:  # a window was given
        return False
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.mode not in SIXTEEN_BIT:
                return has_deep_colors(image)
            return bool(np.ptp(np.asarray(image).astype(np.int64)) > levels)  # else it is one value in the file too
    except Exception:  # of a JPEG that only simplejpeg reads
        return False


def _number(name: str, mark: str) -> int:
    """Hash a photograph's name and mark, and the version of the decoders; 0 is always decoded again."""
    rules = f"{PIL.__version__}\0{simplejpeg.__version__}\0{LEAST_SIDE}\0{MOST_RATIO}"
    return content_of(os.fsencode(f"{rules}\0{mark}\0{name}")) if mark else 0
