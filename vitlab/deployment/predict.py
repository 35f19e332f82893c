"""Pictures that a user gives to a trained model, and what it makes of them: tables and an HTML gallery.

N pictures that can be decoded, K classes, C channels.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Union

import numpy as np
import pandas as pd
from PIL import Image
from referee.formats import templates
from tqdm import tqdm

from vitlab import log
from vitlab.atomic_files import write_text
from vitlab.data import decoding
from vitlab.data.decoding import IMAGE_SUFFIXES, Pixels, as_text
from vitlab.data.folder import but, left_out, walk
from vitlab.data.label_table import listed_files
from vitlab.data.photos import Preprocessing
from vitlab.data.tables import SUFFIXES

Picture = Image.Image | np.ndarray
Given = Union[str, Path, Picture, Sequence["Given"], Iterator["Given"]]  # noqa: UP007  # a string cannot stand at a |

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
HELD = 16  # pictures decoded at a time: half a gigabyte where they are of 12 megapixels
WANTED = "give files or folders, Pillow images, arrays (H, W, C) of uint8, or lists of these"
SHOWN = 2000  # pictures of a page, which take it 10 MB


class Pictures:
    """The pictures in files and folders, or in memory, where they are called picture 0, picture 1 and so on."""

    def __init__(self, given: Iterable[Given]) -> None:
        flat = list(_flat(given))
        paths = [each for each in flat if isinstance(each, Path)]
        self.held = [each for each in flat if not isinstance(each, Path)]
        if not flat or (paths and self.held):
            raise ValueError(f"{'Both files and pictures in memory' if flat else 'No picture'}: {WANTED}.")
        self.files = list(dict.fromkeys(file for path in paths for file in _files(path)))
        self.root = Path("pictures in memory")  # the folder that contains all of them
        if paths:
            folders = [path if path.is_dir() else path.parent for path in map(Path, map(os.path.abspath, paths))]
            self.root = Path(os.path.commonpath(folders))
        self.names: list[str] = []  # below it, of those that could be decoded so far
        self.broken: dict[str, str] = {}  # files that cannot be decoded, and why

    def read(self, transform: Preprocessing) -> Iterator[list[Pixels]]:
        """Yield pictures (H, W, C), a few at a time; files that cannot be decoded are left out."""
        given: Sequence[Path | Picture] = self.held or self.files
        named = [as_text(file.relative_to(self.root).as_posix()) for file in self.files]
        named = named or [f"picture {i}" for i in range(len(given))]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in tqdm(range(0, len(given), HELD), "Pictures", leave=False, disable=None):
                names, chunk = named[start : start + HELD], given[start : start + HELD]
                pictures: list[Pixels] = []
                for name, each, pixels in zip(names, chunk, pool.map(partial(_open, transform), chunk), strict=True):
                    if not isinstance(pixels, str):
                        pictures.append(pixels)
                        self.names.append(name)
                    elif not isinstance(each, Path):  # rows answer what was given in its order
                        raise ValueError(f"{name}: {pixels}.")
                    else:
                        self.broken[name] = pixels
                if pictures:
                    yield pictures
        for name, why in [*self.broken.items()][:1]:
            if not self.names:
                raise ValueError(f"--images: none of {len(self.files)} images can be decoded; {name}: {why}.")
            message = "%d could not be decoded and are left out, the first of them %s: %s"
            log.warning(message, len(self.broken), name, why)


def _open(transform: Preprocessing, given: Path | Picture) -> Pixels | str:
    """Return the pixels, or why there are none; of an array with fitting channels the array itself."""
    mode, window = transform.picture_mode, transform.window
    try:
        if isinstance(given, Path):
            return decoding.decode(decoding.read_regular(given), mode, window=window)
        if isinstance(given, np.ndarray):
            pixels = decoding.checked(given) if window is None else decoding.windowed(given, window)
            if pixels.shape[2] == CHANNELS.get(mode, pixels.shape[2]):
                return pixels
            given = Image.fromarray(given.squeeze())
        return decoding.to_array(decoding.upright(given), mode, window)
    except (ValueError, TypeError) as error:  # Pillow's is of the second kind: it has no such mode
        return str(error)


def _flat(given: Iterable[Given]) -> Iterator[Path | Picture]:
    for each in given:
        if isinstance(each, str | Path | Image.Image | np.ndarray):
            yield Path(each) if isinstance(each, str) else each
        elif isinstance(each, Sequence | Iterator) and not isinstance(each, bytes):
            yield from _flat(each)
        else:
            raise ValueError(f"{type(each).__name__} is no picture: {WANTED}.")


def _files(path: Path) -> list[Path]:
    """Return the pictures in a folder and below, those that a table lists, or the one file."""
    if not path.exists():
        raise ValueError(f"--images {path}: there is no such file or folder.")
    ignored: Counter[str] = Counter()
    found: Sequence[str | Path] = [path]
    if path.suffix.lower() in SUFFIXES:
        found = listed_files(str(path))
    elif path.is_dir():
        found = walk(path, ignored)
    if not found:
        hint = f"Save them as {', '.join(IMAGE_SUFFIXES[:5])} …" if ignored else "Give one with images."
        raise ValueError(f"--images {path} contains no image{but(ignored)}. {hint}")
    if ignored:
        log.warning("%s", left_out(path, ignored))
    return [Path(os.path.abspath(file)) for file in found]


@dataclass(frozen=True)
class Answers:
    """A model's predictions for some pictures, in the order given; those of a folder sorted by name."""

    place: Path  # the folder or file that was given; of several, the folder that contains all of them
    class_names: list[str]
    files: list[str]  # paths below the folder
    probability: np.ndarray  # (N, K)
    thumbnails: list[str]  # data URIs, of the first `SHOWN`
    broken: dict[str, str]  # files that cannot be decoded, and why
    one_class: bool = True  # else `probability` is what the task makes of each output

    @property
    def best(self) -> np.ndarray:
        """The classes (N, 2) that are likeliest, and next."""
        return np.argsort(-self.probability, axis=1, kind="stable")[:, :2]

    def table(self) -> pd.DataFrame:
        """Return a row per picture: file, class, its probability, and p_… of each class; or file and each output."""
        by_class = dict(zip(self.class_names, self.probability.T, strict=True))
        if not self.one_class:
            return pd.DataFrame({"file": self.files} | by_class)
        first, by_class = self.best[:, 0], {f"p_{name}": values for name, values in by_class.items()}
        highest = self.probability[np.arange(len(first)), first]
        head = {"file": self.files, "class": [self.class_names[k] for k in first], "probability": highest}
        return pd.DataFrame(head | by_class)


def write_answers(answers: Answers, model: str, out: Path) -> Path:
    """Write `predictions.csv`, `predictions.parquet` and, of classes, the page `index.html`; return what to open."""
    table = answers.table()
    write_text(out / "predictions.csv", table.to_csv(index=False))
    table.to_parquet(out / "predictions.parquet", index=False)
    if not answers.one_class:
        return out / "predictions.csv"
    pages = templates(Path(__file__).parent)
    pages.filters["percent"] = lambda fraction, digits: f"{100 * fraction:.{digits}f}"
    page = pages.get_template("predictions.html.jinja").render(
        answers=answers,
        model=as_text(model),
        place=Path(as_text(str(answers.place))),
        counts=Counter(table["class"]).most_common(),
        median=float(table["probability"].median()),
        cards=list(zip(answers.files, answers.thumbnails, answers.best.tolist(), strict=False)),
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"
