"""Accuracy of each class and stratum, and the confusion matrix, next to `predictions.parquet`.

N images, K classes.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from vitlab.atomic_files import write_text
from vitlab.evaluation.predictions import Predictions, correct

MAX_CONFUSION_CLASSES = 2000  # for ImageNet-21k the matrix would take a gigabyte


def write_per_class(folder: Path, predictions: Predictions, class_names: list[str]) -> None:
    """Write `per_class.csv`, one row per class, and `confusion.csv`: images by true (row) and predicted class (column).

    Where the data know strata of the images, `per_stratum.csv` has one row for each.
    The matrix is of the trained weights; accuracies are also of their average, where one is kept.
    """
    write_text(folder / "per_class.csv", per_class(predictions, class_names).to_csv(index=False))
    if predictions.strata:
        write_text(folder / "per_stratum.csv", per_stratum(predictions).to_csv(index=False))
    if len(class_names) <= MAX_CONFUSION_CLASSES:
        counts = pd.DataFrame(confusion(predictions, len(class_names)), class_names, class_names)
        write_text(folder / "confusion.csv", counts.to_csv(index_label="true \\ predicted"))


def per_class(predictions: Predictions, class_names: list[str]) -> pd.DataFrame:
    """Return the columns class, images, top1 (missing without images) and, with averaged weights, top1_ema."""
    labels, K = predictions.labels, len(class_names)
    images = np.bincount(labels, minlength=K)
    table = pd.DataFrame({"class": class_names, "images": images})
    for name, logits in (("top1", predictions.logits), ("top1_ema", predictions.logits_ema)):
        if logits is not None:
            right = np.bincount(labels, weights=correct(logits, labels), minlength=K)
            table[name] = right / np.where(images > 0, images, np.nan)
    return table


def per_stratum(predictions: Predictions) -> pd.DataFrame:
    """Return the columns kind, stratum, images, top1 and, where the run averages weights, top1_ema."""
    rows = []
    for kind, values in predictions.strata.items():
        for stratum in in_order(values):
            row = {"kind": kind, "stratum": stratum, "images": (values == stratum).sum()}
            for name, logits in (("top1", predictions.logits), ("top1_ema", predictions.logits_ema)):
                if logits is not None:
                    row[name] = correct(logits, predictions.labels)[values == stratum].mean()
            rows.append(row)
    return pd.DataFrame(rows)


def stratum_metrics(predictions: Predictions) -> dict[str, float]:
    """Return top-1 accuracies of the trained weights for summary.json, like test/top1_size_in_pixels_8."""
    if not predictions.strata:
        return {}
    table = per_stratum(predictions)
    names = [re.sub(r"\W+", "_", f"{kind} {stratum}") for kind, stratum in zip(table.kind, table.stratum, strict=True)]
    return {f"test/top1_{name}": float(top1) for name, top1 in zip(names, table.top1, strict=True)}


def in_order(values: np.ndarray) -> list[str]:
    """Return the strata among some values, by the numbers in their names."""
    return sorted(set(values.tolist()), key=lambda name: ([int(n) for n in re.findall(r"\d+", name)], name))


def confusion(predictions: Predictions, num_classes: int) -> np.ndarray:
    """Count images (K, K) by label (row) and by the class of the highest logit (column)."""
    pairs = predictions.labels * num_classes + predictions.logits.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
