"""The check before training: which photographs cannot be decoded, and what is odd about the others."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import PIL
import simplejpeg
import torch
import torch.nn.functional as F
from jaxtyping import UInt8, UInt64
from PIL import Image
from tqdm import tqdm

from vitlab.atomic_files import written_whole
from vitlab.data.decoding import FORMATS, LEAST_SIDE, MOST_RATIO, SIXTEEN_BIT, Pixels, has_deep_colors, some

if TYPE_CHECKING:
    from vitlab.data.dataset import Split, Subset

LEAST_HASHED = 32  # pixels: the shorter side
_CHUNK = 32  # files that a thread decodes before it reports
_LEVELS = 32  # of 256: a 16-bit picture with fewer uses less than an eighth of its range
NEAR = 10  # of 128 signs that differ; unrelated photographs of one kind differ in 15 or more
MOST_COMPARED = 20_000  # images: a second
_FEW = 10  # images of a class in the test split: each is then 10 % of the class's accuracy
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
    """Decode every photograph once; each `place`, a folder or another source, has its own cache.

    One is decoded again if its mark has changed, or is "". `read` returns pixels and bytes, or raises ValueError or
    OSError with the reason.
    """
    cache = cache_of("decoded", str(place.resolve()) if isinstance(place, Path) else place, ".npy")
    rules = f"{PIL.__version__}\0{simplejpeg.__version__}\0{LEAST_SIDE}\0{MOST_RATIO}"  # by which it was decoded
    marked = zip(names, marks, strict=True)
    each = (content_of(os.fsencode(f"{rules}\0{mark}\0{name}")) if mark else 0 for name, mark in marked)
    numbers = np.fromiter(each, np.uint64, len(names))
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
    """Return whether a file has 16 bits per channel but so little of their range that its 8-bit `pixels` are blank."""
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


def oddities(class_names: Sequence[str], parts: "Mapping[Split, Subset]", known: Check, fold: str = "") -> list[str]:
    """Return remarks on classes of few images, images in two splits or with two labels, and blank 16-bit images."""
    lines, own = [], f" of {fold}" * bool(fold)
    for split, part in parts.items():
        if part.labels.ndim > 1:  # not one class per image
            continue
        counts = np.bincount(part.labels, minlength=len(class_names))
        kinds = {"no image": counts == 0}
        if split == "train":
            kinds["a single image"] = counts == 1
        if split == "test" and not fold:  # all folds together test every image
            kinds[f"fewer than {_FEW} images"] = (counts > 0) & (counts < _FEW)
        for what, which in kinds.items():
            if which.any():
                few = some([class_names[k] for k in np.flatnonzero(which).tolist()], 3)
                lines.append(
                    f"The {split} split{own} has {what} of {which.sum()} of {len(class_names)} classes ({few})."
                )
    spelled = Counter(name.casefold() for name in class_names)
    if alike := [name for name in class_names if spelled[name.casefold()] > 1]:
        lines.append(f"Classes whose names differ in letter case alone: {len(alike)} ({some(alike, 3)}).")
    for split, (names, labels, contents, _) in parts.items():
        _, start, group = np.unique(contents, return_index=True, return_inverse=True)
        first = np.where(contents == 0, np.arange(len(names)), start[group])  # of those that are equal
        doubled = np.flatnonzero((labels != labels[first]).reshape(len(names), -1).any(axis=1)).tolist()
        kind = [f" ({class_names[k]})" for k in labels] if labels.ndim == 1 else [""] * len(names)
        pairs = [f"{names[i]}{kind[i]} = {names[first[i]]}{kind[first[i]]}" for i in doubled]
        lines += _line(f"Images of the {split} split with two labels, though byte for byte the same", pairs, names)
    if "test" in parts and not fold:  # a study names those of all folds
        lines += leaks([parts])
    what = "Images of 16 bits that 8 bits (value / 257) leave nearly blank, unless data.window is given"
    return lines + _line(what, known.faint, known.contents)


def leaks(parts: "Sequence[Mapping[Split, Subset]]") -> list[str]:
    """Return remarks on test images, of a data set or of each fold, that other splits have too, or nearly so."""
    lines, near = list[str](), list[str]()
    names = [name for part in parts for name in part["test"].names]
    for split in ("train", "val"):
        both = [(part["test"], part[split]) for part in parts if split in part]
        equal = [
            f"{own.names[i]} = {o.names[k]}" for own, o in both for i, k in copies(own.contents, o.contents).items()
        ]
        what = f"Images of the test split that are in the {split} split too, byte for byte, which inflates accuracy"
        lines += _line(what, equal, names)
    for part in parts:
        tested, *rest = (part[split] for split in ("test", "train", "val") if split in part)
        bank = rest[0].joined(rest[1]) if len(rest) > 1 else rest[0]
        same, alike = copies(tested.contents, bank.contents), look_alikes(tested.dhashes, bank.dhashes)
        near += [f"{tested.names[i]} and {bank.names[k]}" for i, k in alike.items() if i not in same]
    what = (
        "Images of the test split that look almost like images of another split, which inflates accuracy if they show"
    )
    return lines + _line(f"{what} one scene (`groups` keeps it in one split)", near, names)


def copies(contents: UInt64[np.ndarray, "N"], others: UInt64[np.ndarray, "M"]) -> dict[int, int]:
    """Return the index of each image that another split has too, and that of its first copy there; 0 is no hash."""
    known, first = np.unique(others, return_index=True)
    originals = dict(zip(known.tolist(), first.tolist(), strict=True))
    return {i: originals[each] for i, each in enumerate(contents.tolist()) if each and each in originals}


def look_alikes(hashes: UInt8[np.ndarray, "N 32"], others: UInt8[np.ndarray, "M 32"]) -> dict[int, int]:
    """Return the index of each image that looks almost like one of others, and that of the most similar of these.

    By their difference hashes, see `dhash_of`. None are returned of more than MOST_COMPARED images.
    """
    if len(hashes) + len(others) > MOST_COMPARED:
        return {}
    signs, bank = (np.unpackbits(each, axis=1).astype(np.float32) for each in (hashes, others))
    signs, bank = signs[:, :128] - signs[:, 128:], bank[:, :128] - bank[:, 128:]  # −1, 0 and 1
    found: dict[int, int] = {}
    for start in range(0, len(signs), 1000):  # or the table of all pairs would take gigabytes
        alike = signs[start : start + 1000] @ bank.T  # 128 − twice the number of signs that differ
        near = np.flatnonzero(alike.max(axis=1) >= 128 - 2 * NEAR).tolist()
        found |= {start + i: int(alike[i].argmax()) for i in near}
    return found


def _line(what: str, found: Sequence[str], of: Sized) -> list[str]:
    return [f"{what}: {len(found):,} of {len(of):,} ({some(found, 3)})."] if found else []
