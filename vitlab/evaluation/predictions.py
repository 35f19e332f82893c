"""Outputs of a model by test image, stored so that models can be compared image by image; small pictures beside them.

`predictions.parquet` has the logits, `values.parquet` other metrics, by which a study's intervals are over images too.

N: images, K: classes.
"""

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from vitlab.atomic_files import regular, written_whole

if TYPE_CHECKING:
    import pandas as pd

CALIBRATION_BINS = 15  # as torchmetrics and Guo et al. (2017)
STRATUM = "stratum: "  # begins the names of columns
PIXELATED_BELOW = 64  # px: smaller images are enlarged without smoothing
LARGEST = 160  # px: larger images are reduced


@dataclass(frozen=True)
class Predictions:
    """The logits of one model on one split, in evaluation order."""

    images: list[str]
    labels: np.ndarray  # (N,) int64; (N,) or (N, K) float32 where an image has no single class
    logits: np.ndarray  # (N, K) float32
    logits_ema: np.ndarray | None = None  # (N, K), of the averaged weights
    strata: Mapping[str, np.ndarray] = field(default_factory=dict)  # kinds of images, (N,) of text each

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.images)
        assert self.logits.ndim == 2
        assert len(self.logits) == len(self.images)
        assert self.logits_ema is None or self.logits_ema.shape == self.logits.shape


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write a Parquet file with the columns image, label, logits and optionally logits_ema and strata, atomically."""
    import pandas as pd  # here, because it takes half a second to import

    columns: dict[str, Any] = {
        "image": pd.Series(predictions.images, dtype=object),
        "label": predictions.labels if predictions.labels.ndim == 1 else list(predictions.labels),
        "logits": list(predictions.logits.astype(np.float32)),
    }
    if predictions.logits_ema is not None:
        columns["logits_ema"] = list(predictions.logits_ema.astype(np.float32))
    columns |= {f"{STRATUM}{name}": pd.Series(values, dtype=object) for name, values in predictions.strata.items()}
    with written_whole(Path(path)) as file:
        pd.DataFrame(columns).to_parquet(file, index=False)


def read_predictions(path: str | Path) -> Predictions:
    """Read the file of `write_predictions`; raise ValueError if it is damaged."""
    import pandas as pd

    regular(Path(path))
    try:
        table = pd.read_parquet(path)
        logits = {name: np.stack(table[name].tolist()) for name in ("logits", "logits_ema") if name in table}
        if not all(each.ndim == 2 and each.dtype.kind in "fiu" for each in logits.values()) or "logits" not in logits:
            raise ValueError("its logits are not numbers")
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, OSError) as error:  # of its end, or of a page
        first, *_ = str(error).splitlines()
        reason = re.sub(r"^Could not open Parquet input source '.*?': ", "", first).partition(". ")[0].rstrip(".")
        raise ValueError(f"{path} is damaged ({reason}). `test {Path(path).parent}` writes it again.") from None
    label = table["label"]
    return Predictions(
        images=table["image"].tolist(),
        labels=np.stack(label.tolist()) if label.dtype == object else label.to_numpy().copy(),  # which was read-only
        logits=logits["logits"],
        logits_ema=logits.get("logits_ema"),
        strata={
            name.removeprefix(STRATUM): np.array(table[name].tolist())
            for name in table.columns
            if name.startswith(STRATUM)
        },
    )


def correct(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return for each image whether the highest logit is the label's, (N,) bool."""
    return np.asarray(logits.argmax(axis=1) == labels)


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the fraction of images whose label is among the k highest logits; of equal logits the first is higher.

    Without that order a network with equal logits for all classes would be right on every image.
    """
    highest = np.argsort(-logits, axis=1, kind="stable")[:, :k]  # (N, k)
    return float((highest == labels[:, None]).any(axis=1).mean())


def negative_log_likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-probability of the labels, in nats."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    return float(-np.take_along_axis(log_probabilities, labels[:, None], axis=1).mean())


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax in double precision, (N, K)."""
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def calibration_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error over bins of equal width.

    ECE = Σ_b n_b/N · |accuracy_b − mean confidence_b|   (Guo et al. 2017, eq. 3)
    """
    confidence = probabilities(logits).max(axis=1)
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gap = np.bincount(bins, weights=correct(logits, labels) - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / len(labels))


def fitted_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the T for which logits / T are likeliest (Guo et al. 2017, section 4.2).

    It is nan where there is none: all are classified correctly, or none better than by chance.
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits / np.exp(log_temperature), labels)

    found = float(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x)
    return math.exp(found) if abs(found) < 4.9 else math.nan


def write_values(path: Path, images: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
    """Add a column for each metric, (N,), to what the file, if it is whole, has of the same images; atomically."""
    import pandas as pd  # here, because it takes half a second to import

    table = pd.DataFrame({"image": pd.Series(images, dtype=object), **values})
    with suppress(ValueError, OSError, KeyError):
        known = pd.read_parquet(path)
        if known["image"].tolist() == [*images]:
            table = pd.concat([known.drop(columns=table.columns, errors="ignore"), table], axis=1)
    with written_whole(path) as file:
        table.to_parquet(file, index=False)


def read_values(path: Path) -> "pd.DataFrame":
    """Return the values by image (rows) and metric; empty without a file."""
    import pandas as pd

    if not path.is_file():
        return pd.DataFrame()
    try:
        return pd.read_parquet(path).set_index("image")
    except (ValueError, OSError, KeyError) as error:
        first, *_ = str(error).splitlines()
        raise ValueError(f"{path} is damaged ({first}). Remove it; intervals are then over seeds alone.") from None


def jackknifed(whole: float, without: np.ndarray) -> np.ndarray:
    """Return values of N images whose mean is a number of all, and whose spread is that of the number (Tukey 1958).

    `without` is the number without each of the images, (N,).
    """
    moved = (len(without) - 1) * (whole - without)
    return np.asarray(whole + moved - moved.mean())


def data_uri(image: np.ndarray) -> str:
    """Encode an image (H, W, C) as a data URI, PNG or of a large one reduced JPEG; of many channels the first ones."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] < 3 else np.ascontiguousarray(image[..., :3]))
    picture.thumbnail((LARGEST, LARGEST))  # never enlarges
    lossless = max(image.shape[:2]) < PIXELATED_BELOW
    form, options = ("png", {"optimize": True}) if lossless else ("jpeg", {"quality": 85})
    out = io.BytesIO()
    picture.save(out, form, **options)
    return f"data:image/{form};base64,{base64.b64encode(out.getvalue()).decode()}"
