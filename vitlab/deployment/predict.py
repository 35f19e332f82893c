"""Write what a model makes of a user's own pictures: tables and an HTML gallery of classes, features with their names.

N pictures that can be decoded, K classes, C channels.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from referee.report.templates import templates

from vitlab.atomic_files import write_text, written_whole
from vitlab.data.decoding import as_text
from vitlab.deployment.pictures import Pictures

if TYPE_CHECKING:
    from vitlab.deployment.load import LoadedModel

SHOWN = 2000  # pictures of a page, which take it 10 MB


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
            return pd.DataFrame({"file": self.files} | dict(zip(self.class_names, self.probability.T, strict=True)))
        first = self.best[:, 0]
        head = {
            "file": self.files,
            "class": [self.class_names[k] for k in first],
            "probability": np.take_along_axis(self.probability, first[:, None], axis=1)[:, 0],
        }
        return pd.DataFrame(head | {f"p_{name}": self.probability[:, k] for k, name in enumerate(self.class_names)})


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


@torch.inference_mode()
def write_features(
    model: "LoadedModel", images: Sequence[Path], folder: Path, stages: Sequence[int] | None = None
) -> pd.DataFrame:
    """Write `features.parquet`, a row per picture, `file` and `embedding`; return the table.

    With `stages`, where none means all, `maps.npz` has an array (N, C, H, W) of each by its name, in the order of the
    rows, and `features`, the stages as JSON.
    """
    pictures = Pictures(images)
    pyramid = None if stages is None else model.model.features_only(list(stages) or None)
    rows, maps = [], []
    for arrays in pictures.read(model.transform):
        batch = model.batch(arrays)
        rows.append(model.model.embed(batch).float().cpu())
        maps.append([found.float().cpu() for found in pyramid(batch)] if pyramid else [])
    table = pd.DataFrame({"file": pictures.names, "embedding": list(torch.cat(rows).numpy())})
    with written_whole(folder / "features.parquet") as file:
        table.to_parquet(file, index=False)
    if pyramid is not None:
        stored = zip(pyramid.feature_info, zip(*maps, strict=True), strict=True)
        whole: dict[str, Any] = {stage["module"]: torch.cat(parts).numpy() for stage, parts in stored}
        with written_whole(folder / "maps.npz") as file:
            np.savez(file, features=np.array(json.dumps(pyramid.feature_info)), **whole)
    return table
