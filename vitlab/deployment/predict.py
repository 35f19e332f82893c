"""Classify a user's own pictures: tables, and an HTML gallery.

N pictures that can be decoded, K classes.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from referee.report.templates import templates

from vitlab import log
from vitlab.atomic_files import write_text
from vitlab.data.checking import counted, is_faint
from vitlab.data.decoding import IMAGE_SUFFIXES, PictureMode, Pixels, as_text, read_photo
from vitlab.data.folder import but, left_out, walk
from vitlab.data.oddities import blank

SHOWN = 2000  # pictures of a page, which take it 10 MB
HELD = 16  # pictures decoded at a time: half a gigabyte where they are of 12 megapixels


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
        if not self.one_class:
            if "file" in self.class_names:
                raise ValueError("An output is called file, as the column of the pictures' names is; rename it.")
            return pd.DataFrame({"file": self.files} | dict(zip(self.class_names, self.probability.T, strict=True)))
        first = self.best[:, 0]
        head = {
            "file": self.files,
            "class": [self.class_names[k] for k in first],
            "probability": np.take_along_axis(self.probability, first[:, None], axis=1)[:, 0],
        }
        return pd.DataFrame(head | {f"p_{name}": self.probability[:, k] for k, name in enumerate(self.class_names)})


class Pictures:
    """The pictures in files and folders, decoded on all cores a few at a time.

    Attributes:
        names: of those that could be decoded so far, below `root`.
        broken: files that cannot be decoded, and why.
        faint: files of 16 bits that 8 bits leave nearly blank.
        root: the folder that contains all of them.

    Raises:
        ValueError: a path does not exist, or a folder has no picture.
    """

    def __init__(self, images: Sequence[Path]) -> None:
        self.files = list(dict.fromkeys(file for path in images for file in _files(path)))
        self.faint: list[str] = []
        self.root = Path(os.path.commonpath([p if p.is_dir() else p.parent for p in map(_absolute, images)]))
        self.names: list[str] = []
        self.broken: dict[str, str] = {}

    def read(self, mode: PictureMode) -> Iterator[tuple[list[str], list[Pixels]]]:
        """Yield names and pictures (H, W, C).

        Raises:
            ValueError: none of the files can be decoded.
        """
        starts = range(0, len(self.files), HELD)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in counted(starts, len(starts), "Pictures"):
                chunk = self.files[start : start + HELD]
                names = [as_text(file.relative_to(self.root).as_posix()) for file in chunk]
                opened = dict(zip(names, pool.map(partial(_open, mode), chunk), strict=True))
                self.broken |= {name: reason for name, reason in opened.items() if isinstance(reason, str)}
                pictures = {name: pixels for name, pixels in opened.items() if not isinstance(pixels, str)}
                self.names += pictures
                files = [file for name, file in zip(names, chunk, strict=True) if name in pictures]
                faint = pool.map(is_faint, files, pictures.values())
                self.faint += [name for name, is_so in zip(pictures, faint, strict=True) if is_so]
                if pictures:
                    yield list(pictures), list(pictures.values())
        if self.faint:
            log.warning("%s Convert them to 8 bits by one range first.", blank(self.faint, len(self.names)))
        if not self.names:
            name, why = next(iter(self.broken.items()))
            raise ValueError(f"--images: none of {len(self.files)} images can be decoded; {name}: {why}.")


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


def _open(mode: PictureMode, file: Path) -> Pixels | str:
    """Return the picture, or why there is none."""
    try:
        return read_photo(file, mode)
    except ValueError as error:
        return str(error)


def _files(path: Path) -> list[Path]:
    """Return the pictures in a folder and below, or the one file."""
    if not path.exists():
        raise ValueError(f"--images {path}: there is no such file or folder.")
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
