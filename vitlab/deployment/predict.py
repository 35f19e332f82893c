"""What a trained model says about a user's own pictures: tables, and a page to look at.

N pictures that can be decoded, K classes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from vitlab.data import ImageDataModule
from vitlab.data.decoding import as_text, open_rgb
from vitlab.data.folder import walk
from vitlab.data.photos import Picture
from vitlab.objectives import Objective
from vitlab.studies import format as wording
from vitlab.studies.report.gallery import data_uri

SHOWN = 2000  # pictures of a page, which take it 10 MB
HELD = 16  # pictures decoded at a time: half a gigabyte where they are of 12 megapixels


@dataclass(frozen=True)
class Answers:
    """What a model says about each of some pictures, in the order in which they were given; a folder's by name."""

    place: Path  # the folder or file that was given; of several, the folder that holds all of them
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
            return pd.DataFrame({"file": self.files} | dict(zip(self.class_names, self.probability.T, strict=True)))
        first = self.best[:, 0]
        head = {
            "file": self.files,
            "class": [self.class_names[k] for k in first],
            "probability": np.take_along_axis(self.probability, first[:, None], axis=1)[:, 0],
        }
        return pd.DataFrame(head | {f"p_{name}": self.probability[:, k] for k, name in enumerate(self.class_names)})


def ask(
    objective: Objective, data: ImageDataModule, images: Sequence[Path], device: torch.device, raw: bool = False
) -> Answers:
    """Show a model pictures, files or whole folders, each as evaluation frames and normalizes the data's own.

    Args:
        raw: ask the weights as trained, where their average is kept too.

    Raises:
        ValueError: the objective learns no classes, a path does not exist, or there is no picture to decode.
    """
    task = objective.task
    if task is None:
        raise ValueError(f"{type(objective).__name__} learns no classes by softmax, so there is nothing to predict.")
    encoder = (objective.backbone if raw else objective.encoder).to(device).eval()
    files = list(dict.fromkeys(file for path in images for file in _files(path)))
    root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in map(_absolute, images)]))
    names: list[str] = []
    logits: list[torch.Tensor] = []
    thumbnails: list[str] = []
    broken: dict[str, str] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool, tqdm(total=len(files), leave=False, disable=None) as bar:
        for start in range(0, len(files), HELD):
            chunk = files[start : start + HELD]
            opened = dict(zip([_name(file, root) for file in chunk], pool.map(_open, chunk), strict=True))
            broken |= {name: found for name, found in opened.items() if isinstance(found, str)}
            pictures = {name: found for name, found in opened.items() if not isinstance(found, str)}
            if pictures:
                with torch.inference_mode():
                    logits.append(encoder(data.view_of([*pictures.values()], device)).float().cpu())
            shown = list(pictures.values())[: SHOWN - len(thumbnails)]
            thumbnails += [data_uri(np.asarray(picture)) for picture in shown]
            names += pictures
            bar.update(len(chunk))
    if not names:
        name, why = next(iter(broken.items()))
        raise ValueError(f"--images: none of {len(files)} images can be decoded; {name}: {why}.")
    place = images[0] if len(images) == 1 else root
    return Answers(
        place, data.class_names, names, task.activate(torch.cat(logits)).numpy(), thumbnails, broken, task.one_class
    )


def write_answers(answers: Answers, model: str, out: Path) -> Path:
    """Write `predictions.csv`, `predictions.parquet` and, of classes, the page `index.html`; return what to open."""
    out.mkdir(parents=True, exist_ok=True)
    table = answers.table()
    table.to_csv(out / "predictions.csv", index=False)
    table.to_parquet(out / "predictions.parquet", index=False)
    if not answers.one_class:
        return out / "predictions.csv"
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = wording.percent
    page = templates.get_template("predictions.html.jinja").render(
        answers=answers,
        model=as_text(model),
        place=Path(as_text(str(answers.place))),
        counts=Counter(table["class"]).most_common(),
        median=float(table["probability"].median()),
        cards=list(zip(answers.files, answers.thumbnails, answers.best.tolist(), strict=False)),
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def _open(file: Path) -> Picture | str:
    """Return the picture, or why there is none."""
    try:
        return open_rgb(file)
    except ValueError as error:
        return str(error)


def _files(path: Path) -> list[Path]:
    """Return the pictures in a folder and below, or the one file."""
    if not path.exists():
        raise ValueError(f"--images {path}: there is no such file or folder.")
    found = [_absolute(Path(file)) for file in walk(path, Counter())] if path.is_dir() else [_absolute(path)]
    if not found:
        raise ValueError(f"--images {path}: holds no image.")
    return found


def _absolute(path: Path) -> Path:
    """Return the path from the root, links in it left as they are."""
    return Path(os.path.abspath(path))


def _name(file: Path, root: Path) -> str:
    """Return the path below the folder, as text."""
    return as_text(file.relative_to(root).as_posix())
