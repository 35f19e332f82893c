"""Training images drawn by weight: rare classes more often, or each image as often as a table gives.

An epoch keeps its length. An image whose expected number of appearances is 2.3 appears two or three times (systematic
sampling), augmented differently each time, and each class is within one image of its share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int, Int64

from vitlab.data.counter_rng import Stream, host_seed, permutation


@dataclass(kw_only=True, unsafe_hash=True)
class Sampling:
    """How often training images appear.

    Args:
        class_balance: 0: as often as there are images of a class; 1: all classes equally often; between, a class of n
            images has the weight n^(1 − class_balance), with 0.5 the square root of Mahajan et al. 2018,
            https://arxiv.org/abs/1805.00932, section 2.2.
        weights: a CSV file with the columns `file`, named as in reports, and `weight`, 0 or more. Null: all equal.
    """

    class_balance: float = 0.0
    weights: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.class_balance <= 1:
            raise ValueError(
                f"sampling.class_balance is {self.class_balance}; give 0 (as the images are) to 1 (classes equally)."
            )

    def weights_of(self, labels: Int[np.ndarray, "N"], names: Sequence[str]) -> Float64[np.ndarray, "N"]:
        """Return the weight of each image.

        Raises:
            FileNotFoundError, ValueError: there is no table, it lacks an image, or a weight is invalid.
        """
        weights = np.bincount(labels)[labels] ** -self.class_balance
        if self.weights is None:
            return weights
        import pandas as pd  # here, because it takes half a second to import

        try:
            table = pd.read_csv(self.weights, dtype={"file": str})
        except FileNotFoundError:
            raise FileNotFoundError(f"sampling.weights: there is no file {self.weights}.") from None
        if not {"file", "weight"} <= set(table.columns):
            raise ValueError(f"{self.weights} has the columns {list(table.columns)}; give file and weight.")
        given = table.drop_duplicates("file").set_index("file")["weight"].reindex(list(names)).to_numpy(np.float64)
        wrong = np.flatnonzero(~(np.isfinite(given) & (given >= 0)))
        if len(wrong):
            raise ValueError(
                f"{self.weights} gives no weight of 0 or more to {len(wrong)} of {len(names)} training images, like "
                f"{names[wrong[0]]}.\nAdd a row for each."
            )
        if not given.any():
            raise ValueError(f"{self.weights} gives every training image the weight 0.")
        return weights * given


def draw(
    weights: Float64[np.ndarray, "N"], labels: Int[np.ndarray, "N"], seed: int, epoch: int
) -> Int64[np.ndarray, "N"]:
    """Return the indices of an epoch in random order; the r-th repeat of image i is r · N + i."""
    size = len(weights)
    order = permutation(size, seed, epoch, Stream.DRAW)
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, so that each gets its share
    ends = np.cumsum(weights[order])
    ends *= size / ends[-1]
    offset = host_seed(seed, epoch, Stream.DRAW) / 2**63
    places = np.searchsorted(ends, np.arange(size) + offset, side="right").clip(max=np.flatnonzero(weights[order])[-1])
    repeats = np.arange(size) - np.searchsorted(places, places)
    return (order[places] + size * repeats)[permutation(size, seed, epoch)]
