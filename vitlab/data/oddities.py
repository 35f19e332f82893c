"""What a user should know of a data set before trusting its numbers. Nothing is changed or left out."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt64

from vitlab.data.checking import Check
from vitlab.data.dataset import Split, Subset
from vitlab.data.decoding import as_text

_FEW = 10  # images of a class in the test split: each is then 10 % of the class's accuracy
_NAMED = 3
_PAIRS: tuple[tuple[Split, Split], ...] = (("test", "train"), ("val", "train"), ("test", "val"))  # the worst first


def oddities(class_names: Sequence[str], parts: Mapping[Split, Subset], known: Check) -> list[str]:
    """Return remarks on classes with few images, images in two splits or with two labels, and blank 16-bit images."""
    lines = []
    for split, part in parts.items():
        if part.labels.ndim > 1:  # not one class per image
            continue
        counts = np.bincount(part.labels, minlength=len(class_names))
        kinds = {"no image": counts == 0}
        if split == "train":
            kinds["a single image"] = counts == 1
        if split == "test":
            kinds[f"fewer than {_FEW} images"] = (counts > 0) & (counts < _FEW)
        for what, chosen in kinds.items():
            if chosen.any():
                some = _some([class_names[k] for k in np.flatnonzero(chosen).tolist()], chosen.sum())
                lines.append(f"The {split} split has {what} of {chosen.sum()} of {len(class_names)} classes ({some}).")
    for split, (names, labels, contents) in parts.items():
        _, start, group = np.unique(contents, return_index=True, return_inverse=True)
        first = np.where(contents == 0, np.arange(len(names)), start[group])  # of those that are equal
        doubled = np.flatnonzero((labels != labels[first]).reshape(len(names), -1).any(axis=1)).tolist()
        if doubled:
            kind = [f" ({class_names[k]})" for k in labels] if labels.ndim == 1 else [""] * len(names)
            pairs = [f"{names[i]}{kind[i]} = {names[first[i]]}{kind[first[i]]}" for i in doubled[:_NAMED]]
            lines.append(
                f"Images of the {split} split with two labels, though byte for byte the same: "
                f"{len(doubled):,} of {len(names):,} ({_some(pairs, len(doubled))})."
            )
    for split, other in (pair for pair in _PAIRS if parts.keys() >= set(pair)):
        names, others, twins = (
            parts[split].names,
            parts[other].names,
            copies(parts[split].contents, parts[other].contents),
        )
        if twins:
            pairs = [f"{names[i]} = {others[k]}" for i, k in [*twins.items()][:_NAMED]]
            lines.append(
                f"Images of the {split} split that are in the {other} split too, byte for byte, which inflates "
                f"accuracy: {len(twins):,} of {len(names):,} ({_some(pairs, len(twins))})."
            )
    if known.faint:
        lines.append(f"{blank(known.faint, len(known.contents))}\nConvert all to 8 bits by one range.")
    return lines


def copies(contents: UInt64[np.ndarray, "N"], others: UInt64[np.ndarray, "M"]) -> dict[int, int]:
    """Return the index of each image that another split has too, and that of its first copy there; 0 is no hash."""
    known, first = np.unique(others, return_index=True)
    originals = dict(zip(known.tolist(), first.tolist(), strict=True))
    return {i: originals[each] for i, each in enumerate(contents.tolist()) if each and each in originals}


def blank(faint: Sequence[str], total: int) -> str:
    """Return a remark on 16-bit images for which `is_faint` holds, of so many images."""
    return (
        "Images of 16 bits that use less than an eighth of their range, so that 8 bits (value / 257) leave them "
        f"nearly blank: {len(faint):,} of {total:,} ({_some(faint, len(faint))})."
    )


def _some(names: Sequence[str], total: int) -> str:
    more = f" and {total - _NAMED} more" if total > _NAMED else ""
    return as_text(", ".join(names[:_NAMED])) + more
