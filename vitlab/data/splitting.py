"""Which images are held out, and which are used: equally many of each class."""

import numpy as np
from jaxtyping import Int64, Integer

from vitlab.data.counter_rng import Stream, permutation


def check_fraction(name: str, value: float) -> None:
    """Raise ValueError for a fraction that is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"data.init_args.{name} is {value}; it must lie between 0 and 1, e.g. 0.1.")


def stratified_split(
    labels: Integer[np.ndarray, "N"], fraction: float, seed: int
) -> tuple[Int64[np.ndarray, "kept"], Int64[np.ndarray, "held_out"]]:
    """Return sorted indices (kept, held out): a fraction of each class, at least one image and never all."""
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = permutation(len(members), seed, int(label), Stream.SPLIT)
        held_out.append(members[order[:wanted]])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def balanced_order(labels: Integer[np.ndarray, "N"], seed: int) -> Int64[np.ndarray, "N"]:
    """Return all indices in a random order whose first n, for any n, have equally many images of each class, ± 1.

    Class by class in turn, until a class has no image left.
    """
    turns = np.empty(len(labels), np.int64)
    classes = np.unique(labels)
    for label in classes:
        members = np.flatnonzero(labels == label)
        turns[members[permutation(len(members), seed, int(label), Stream.SUBSET)]] = np.arange(len(members))
    first = np.argsort(permutation(len(classes), seed, -1, Stream.SUBSET))  # no label is below 0
    return np.lexsort((first[np.searchsorted(classes, labels)], turns))
