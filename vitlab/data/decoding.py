"""Photographs from files to RGB, and the check, before training, that every file can be decoded."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

# What Pillow reads without further programs. Compared in lower case.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".avif"),
)
_LEAST_SIDE = 2  # pixels: less is a placeholder or a tracking pixel, not a photograph
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")


def open_rgb(path: str | Path) -> Image.Image:
    """Decode one file as the picture that a viewer would show: upright, RGB, 8 bits a channel.

    Transparent pixels become white, as on a page: the colour stored under them is often rubbish. 16-bit grey is scaled
    by 1/257, where Pillow's own conversion would cut everything above 255 off. Of an animation the first frame counts.

    Raises:
        ValueError: nothing can be decoded, or it is no photograph; the message says why, not which file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            rgb = _to_rgb(_upright(image))
    except PIL.UnidentifiedImageError:
        raise ValueError("empty file" if os.path.getsize(path) == 0 else "not an image that Pillow knows") from None
    except Exception as error:  # Pillow's decoders raise whatever damaged bytes lead them to
        raise ValueError(str(error) or type(error).__name__) from None
    if min(rgb.size) < _LEAST_SIDE:
        raise ValueError(f"{rgb.width} x {rgb.height} pixels")
    return rgb


def _upright(image: Image.Image) -> Image.Image:
    """Turn the image as its EXIF orientation says; a damaged EXIF block says nothing, and the picture is kept."""
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # as above
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).clip(0, 65535) / 257
        return Image.fromarray(values.round().astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose range is unknown")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        page = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(page, rgba).convert("RGB")
    return image.convert("RGB")


def find_broken(root: Path, names: Sequence[str]) -> tuple[dict[str, str], Path]:
    """Return the names under `root` that cannot be decoded, with the reason, and a file that lists them all.

    Every file is decoded once. One that passed is remembered by name, size and time of change in the user's cache, so
    that the next start decodes only new and changed ones.
    """
    cache = _cache_folder() / f"decoded-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.npy"
    marks = np.fromiter((_mark(root, name) for name in names), np.uint64, len(names))
    new = np.flatnonzero(~np.isin(marks, _read_marks(cache)))
    if len(new) == 0:
        return {}, cache.with_suffix(".txt")

    reasons: list[str | None] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # Pillow warns above 89 million pixels and refuses above twice that. Such an image takes seconds and a gigabyte
        # in every epoch and worker: refused here, it is never opened again.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        checks = pool.map(lambda index: _why_broken(root / names[index]), new.tolist())
        reasons.extend(tqdm(checks, total=len(new), desc="Checking images", unit=" images", leave=False, disable=None))

    good = np.ones(len(names), bool)
    good[new] = [reason is None for reason in reasons]
    broken = {names[index]: reason for index, reason in zip(new.tolist(), reasons, strict=True) if reason is not None}
    _write(cache, broken, marks[good], root)
    return broken, cache.with_suffix(".txt")


def _why_broken(path: Path) -> str | None:
    try:
        open_rgb(path)
    except ValueError as error:
        return str(error)
    return None


def _mark(root: Path, name: str) -> int:
    """Identify a file's content by what is known without opening it; another Pillow may decode other files."""
    try:
        status = os.stat(root / name)
    except OSError:  # a link to nowhere: decoding it will say so
        return 0
    key = f"{PIL.__version__}\0{_LEAST_SIDE}\0{status.st_size}\0{status.st_mtime_ns}\0{name}"
    return int.from_bytes(hashlib.blake2b(os.fsencode(key), digest_size=8).digest(), "little")


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitlab"


def _read_marks(cache: Path) -> np.ndarray:
    try:
        return np.load(cache, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # none yet, or cut short: check again
        return np.empty(0, np.uint64)


def _write(cache: Path, broken: dict[str, str], marks: np.ndarray, root: Path) -> None:
    """Write the marks whole or not at all; without a writable cache the next start checks again."""
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{root / name}: {why}\n" for name, why in broken.items()]
        cache.with_suffix(".txt").write_text("".join(lines), encoding="utf-8", errors="surrogateescape")
        partial = cache.with_suffix(f".{os.getpid()}.npy")
        np.save(partial, marks)
        os.replace(partial, cache)
    except OSError:
        return
