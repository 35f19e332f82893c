"""Which images are held out, and which are used: equally many of each class.

Folds are parts of all labelled images of a data set, each of which tests the model that is trained on the others.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, Integer, Shaped
from jsonargparse.typing import PositiveInt

from vitlab.data.counter_rng import Stream, permutation

Indices = Int64[np.ndarray, "_"]


def stratified_split(
    labels: Integer[np.ndarray, "N"], fraction: float, seed: int, groups: Shaped[np.ndarray, "N"] | None = None
) -> tuple[Int64[np.ndarray, "kept"], Int64[np.ndarray, "held_out"]]:
    """Return sorted indices (kept, held out): a fraction of each class, at least one image and never all.

    With `groups`, whole groups are held out, which give nearly that fraction; one group of each class stays.
    """
    if groups is not None:
        count = min(max(round(1 / min(fraction, 1 - fraction)), 2), len(np.unique(groups)))
        out = (fold_numbers(labels, count, seed, groups) == 0) == (fraction <= 0.5)
        for label in np.setdiff1d(labels, labels[~out]):  # no image would be left to train on
            out &= ~np.isin(groups, groups[labels == label][:1])
        return np.flatnonzero(~out), np.flatnonzero(out)
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = permutation(len(members), seed, int(label), Stream.SPLIT)
        held_out.append(members[order[:wanted]])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def classes_of(labels: Shaped[np.ndarray, "N *K"]) -> Int64[np.ndarray, "N"]:
    """Return class indices; images of other labels are of one class."""
    one_each = labels.ndim == 1 and labels.dtype.kind in "iu"
    return labels.astype(np.int64) if one_each else np.zeros(len(labels), np.int64)


def class_balanced_order(labels: Integer[np.ndarray, "N"], seed: int) -> Int64[np.ndarray, "N"]:
    """Return all indices in a random order; the first n have equally many of each class that is not used up, ± 1."""
    turns = np.empty(len(labels), np.int64)
    classes = np.unique(labels)
    for label in classes:
        members = np.flatnonzero(labels == label)
        turns[members[permutation(len(members), seed, int(label), Stream.SUBSET)]] = np.arange(len(members))
    first = np.argsort(permutation(len(classes), seed, -1, Stream.SUBSET))  # no label is below 0
    return np.lexsort((first[np.searchsorted(classes, labels)], turns))


@dataclass(kw_only=True, unsafe_hash=True)
class Folds:
    """Which part of the images tests; `split_seed` draws the parts.

    Args:
        count: of the parts. They have equally many images of each class, ± 1, or as nearly so as whole groups allow.
        test: the part that tests, from 1.
        groups: how `groups_by_name` tells which images show one patient or scene, which stay together; null: as the
            data's `groups` do.
    """

    count: PositiveInt
    test: PositiveInt = 1
    groups: str | None = None

    def __post_init__(self) -> None:
        if self.test > self.count:
            raise ValueError(f"folds.test is {self.test}; give a part from 1 to {self.count}.")


def fold_numbers(
    classes: Int64[np.ndarray, "N"], folds: int, seed: int, groups: Shaped[np.ndarray, "N"] | None = None
) -> Int64[np.ndarray, "N"]:
    """Return the part of each image, from 0."""
    units = len(classes if groups is None else np.unique(groups))
    if units < folds:
        raise ValueError(f"{folds} parts of {units} {'images' if groups is None else 'groups'}: give fewer folds.")
    parts = np.empty(len(classes), np.int64)
    if groups is None:
        random = permutation(len(classes), seed, -1, Stream.SPLIT)  # no class is below 0
        parts[np.lexsort((random, classes))] = np.arange(len(classes)) % folds  # dealt class by class
        return parts
    from sklearn.model_selection import StratifiedGroupKFold  # here, because it takes a second to import

    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(classes, classes, groups)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes of fewer images than parts: `oddities` names them
        for part, (_, members) in enumerate(split):
            parts[members] = part
    return parts
