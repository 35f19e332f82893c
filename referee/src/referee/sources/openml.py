"""The predictions of an OpenML run, predictions.arff: one row for each test item, repeat and fold."""

import csv
from pathlib import Path

import pandas as pd


def recognizes(file: Path, head: bytes) -> bool:
    return file.suffix == ".arff" and b"@attribute row_id" in head.lower()


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return prediction and label of each row; `correct` is OpenML's name of the label, and a repeat is a seed."""
    names: list[str] = []
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            first, _, rest = line.strip().partition(" ")
            if first.lower() == "@attribute":
                names.append(next(csv.reader([rest], delimiter=" ", quotechar="'"))[0])
            elif first.lower() == "@data":
                break
        rows = [row for row in csv.reader(lines, quotechar="'") if row and not row[0].startswith("%")]
    frame = pd.DataFrame(rows, columns=names)
    label = frame["correct" if "correct" in frame else "truth"]
    seed = frame["repeat"].astype(int) + 1
    return pd.DataFrame({"seed": seed, "item": frame["row_id"], "prediction": frame["prediction"], "label": label})
