"""Values of a metric by test image, `values.parquet`, with which a study's intervals are over images too."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vitlab.atomic_files import written_whole

if TYPE_CHECKING:
    import pandas as pd


def write_values(path: Path, images: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
    """Add a column for each metric, (N,), to what the file has of the same images, atomically.

    A damaged file is replaced.
    """
    import pandas as pd  # here, because it takes half a second to import

    table = pd.DataFrame({"image": pd.Series(images, dtype=object), **values})
    with suppress(ValueError, OSError, KeyError):
        known = pd.read_parquet(path)
        if known["image"].tolist() == [*images]:
            table = pd.concat([known.drop(columns=table.columns, errors="ignore"), table], axis=1)
    with written_whole(path) as file:
        table.to_parquet(file, index=False)


def read_values(path: Path) -> "pd.DataFrame":
    """Return the values by image (rows) and metric; empty without a file.

    Raises:
        ValueError: it is damaged.
    """
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

    Args:
        without: the number without each of the images, (N,).
    """
    moved = (len(without) - 1) * (whole - without)
    return np.asarray(whole + moved - moved.mean())
