"""Pictures that a user gives to a trained model: files, folders, Pillow's images, arrays, and lists of these."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Union

import numpy as np
from PIL import Image

from vitlab import log
from vitlab.data.checking import counted, is_faint
from vitlab.data.decoding import IMAGE_SUFFIXES, PictureMode, Pixels, as_text, checked, read_photo, to_array, upright
from vitlab.data.folder import but, left_out, walk
from vitlab.data.label_table import listed_files
from vitlab.data.oddities import blank
from vitlab.data.tables import SUFFIXES

Picture = Image.Image | np.ndarray
Given = Union[str, Path, Picture, Sequence["Given"], Iterator["Given"]]  # noqa: UP007  # a string cannot stand at a |

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
HELD = 16  # pictures decoded at a time: half a gigabyte where they are of 12 megapixels
WANTED = "give files or folders, Pillow images, arrays (H, W, C) of uint8, or lists of these"


class Pictures:
    """The pictures in files and folders, or in memory, where they are called picture 0, picture 1 and so on.

    They are decoded on all cores, a few at a time.

    Attributes:
        names: of those that could be decoded so far, below `root`.
        broken: files that cannot be decoded, and why.
        root: the folder that contains all of them.

    Raises:
        ValueError: nothing, something that is no picture, or both files and pictures in memory; a path does not exist,
            or a folder has no picture.
    """

    def __init__(self, given: Iterable[Given]) -> None:
        flat = list(_flat(given))
        paths = [each for each in flat if isinstance(each, Path)]
        self.held = [each for each in flat if not isinstance(each, Path)]
        if not flat or (paths and self.held):
            raise ValueError(f"{'Both files and pictures in memory' if flat else 'No picture'}: {WANTED}.")
        self.files = list(dict.fromkeys(file for path in paths for file in _files(path)))
        self.root = Path("pictures in memory")
        if paths:
            folders = [path if path.is_dir() else path.parent for path in map(_absolute, paths)]
            self.root = Path(os.path.commonpath(folders))
        self.names: list[str] = []
        self.broken: dict[str, str] = {}

    def read(self, mode: PictureMode) -> Iterator[tuple[list[str], list[Pixels]]]:
        """Yield names and pictures (H, W, C).

        Raises:
            ValueError: none of the files can be decoded, or one picture in memory is none: rows answer what was given
                in its order, so that none is left out.
        """
        given: Sequence[Path | Picture] = self.held or self.files
        named = [
            as_text(each.relative_to(self.root).as_posix()) if isinstance(each, Path) else f"picture {i}"
            for i, each in enumerate(given)
        ]
        faint: list[str] = []  # files of 16 bits that 8 bits leave nearly blank
        starts = range(0, len(given), HELD)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in counted(starts, len(starts), "Pictures"):
                names, chunk = named[start : start + HELD], given[start : start + HELD]
                pictures: dict[str, Pixels] = {}
                for name, each, pixels in zip(names, chunk, pool.map(partial(_open, mode), chunk), strict=True):
                    if not isinstance(pixels, str):
                        pictures[name] = pixels
                    elif not isinstance(each, Path):
                        raise ValueError(f"{name}: {pixels}.")
                    else:
                        self.broken[name] = pixels
                self.names += pictures
                read = [each for name, each in zip(names, chunk, strict=True) if name in pictures]
                if not self.held:
                    are_faint = pool.map(is_faint, read, pictures.values())
                    faint += [name for name, is_so in zip(pictures, are_faint, strict=True) if is_so]
                if pictures:
                    yield list(pictures), list(pictures.values())
        if faint:
            log.warning("%s Convert them to 8 bits by one range first.", blank(faint, len(self.names)))
        if not self.names:
            name, why = next(iter(self.broken.items()))
            raise ValueError(f"--images: none of {len(self.files)} images can be decoded; {name}: {why}.")


def warn_of_broken(broken: Mapping[str, str]) -> None:
    """Log which pictures a table leaves out."""
    if broken:
        name, why = next(iter(broken.items()))
        log.warning("%d could not be decoded and are left out, the first of them %s: %s", len(broken), name, why)


def _open(mode: PictureMode, given: Path | Picture) -> Pixels | str:
    """Return the pixels, or why there are none; of an array with fitting channels the array itself."""
    try:
        if isinstance(given, Path):
            return read_photo(given, mode)
        if isinstance(given, np.ndarray):
            pixels = checked(given)
            if pixels.shape[2] == CHANNELS.get(mode, pixels.shape[2]):
                return pixels
            given = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return to_array(upright(given), mode)
    except (ValueError, TypeError) as error:  # Pillow's is of the second kind: it has no such mode
        return str(error)


def _flat(given: Iterable[Given]) -> Iterator[Path | Picture]:
    for each in given:
        if isinstance(each, str | Path):
            yield Path(each)
        elif isinstance(each, Image.Image | np.ndarray):
            yield each
        elif isinstance(each, Sequence | Iterator) and not isinstance(each, bytes):
            yield from _flat(each)
        else:
            raise ValueError(f"{type(each).__name__} is no picture: {WANTED}.")


def _files(path: Path) -> list[Path]:
    """Return the pictures in a folder and below, those that a table lists, or the one file."""
    if not path.exists():
        raise ValueError(f"--images {path}: there is no such file or folder.")
    if path.suffix.lower() in SUFFIXES:
        return [_absolute(file) for file in listed_files(str(path))]
    if not path.is_dir():
        return [_absolute(path)]
    ignored: Counter[str] = Counter()
    found = [_absolute(Path(file)) for file in walk(path, ignored)]
    if not found:
        hint = f"Save them as {', '.join(IMAGE_SUFFIXES[:5])} …" if ignored else "Give one with images."
        raise ValueError(f"--images {path} contains no image{but(ignored)}. {hint}")
    if ignored:
        log.warning("%s", left_out(path, ignored))
    return found


def _absolute(path: Path) -> Path:
    """Return the path from the root, links in it left as they are."""
    return Path(os.path.abspath(path))
