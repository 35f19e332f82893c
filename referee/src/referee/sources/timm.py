"""timm's inference.py: filename, index or label of the prediction, prob. The label is the folder of the image.

The results of timm's validate.py, one row a model, are a plain table.
"""

import re
from pathlib import Path

import pandas as pd

from referee.sources import table


def recognizes(file: Path, head: bytes) -> bool:
    columns = set(head.split(b"\n")[0].strip().decode(errors="replace").split(","))
    return file.suffix == ".csv" and "filename" in columns and bool(columns & {"prob", "logit", "prob_0", "logit_0"})


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item, prediction and label of each image."""
    frame = table.read(file, metric)
    folders = frame["filename"].map(lambda name: Path(name).parent.name)
    column = next((name for name in ("label", "label_0", "index", "index_0") if name in frame), None)
    prediction = frame.get(column)
    if prediction is not None and str(column).startswith("index"):  # of classes in timm's order of their folders
        prediction = pd.to_numeric(prediction)
        classes = sorted(folders.unique(), key=_natural)
        if prediction.max() >= len(classes):
            raise ValueError(
                f"its images are of {len(classes)} classes and it predicts class {prediction.max()}: which folder an "
                "index means is unknown. Use --label-type name of timm's inference.py"
            )
        prediction = prediction.map(lambda index: classes[index])
    if prediction is None or (folders == "").any() or not prediction.astype(str).isin(folders).any():
        raise ValueError(
            "it names no predicted class that is the folder of an image. Use --fullname and --label-type name, or "
            "--label-type none and --include-index, of timm's inference.py, or give a table with the columns item, "
            "prediction and label"
        )
    return pd.DataFrame({"item": frame["filename"], "prediction": prediction, "label": folders})


def _natural(name: str) -> list[str | int]:
    """Return timm's key of class names: numbers by value, without capitals (timm/utils/misc.py)."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name.lower())]
