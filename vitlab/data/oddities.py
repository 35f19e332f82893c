"""What a user should know of a data set before believing its numbers, in words. Nothing is changed or left out."""

from collections.abc import Mapping, Sequence

import numpy as np

from vitlab.data.checking import Check
from vitlab.data.datamodule import Split
from vitlab.data.decoding import as_text
from vitlab.data.source import Subset

_FEW = 10  # images of a class in the test split: one is then 10 % of the class's accuracy
_NAMED = 3
_PAIRS: tuple[tuple[Split, Split], ...] = (("test", "train"), ("val", "train"), ("test", "val"))  # the worst first


def oddities(class_names: Sequence[str], parts: Mapping[Split, Subset], known: Check) -> list[str]:
    """Return a line for each thing to know of these splits."""
    return [*_thin_classes(class_names, parts), *_duplicates(parts), *_faint_pictures(known)]


def _thin_classes(class_names: Sequence[str], parts: Mapping[Split, Subset]) -> list[str]:
    """Name the classes that a split lacks, that are trained on a single image, or tested on few."""
    lines = []
    for split, part in parts.items():
        counts = np.bincount(part.labels, minlength=len(class_names))
        kinds = {"no image": counts == 0}
        if split == "train":
            kinds["a single image"] = counts == 1
        if split == "test":
            kinds[f"fewer than {_FEW} images"] = (counts > 0) & (counts < _FEW)
        for what, chosen in kinds.items():
            if chosen.any():
                named = _some([class_names[k] for k in np.flatnonzero(chosen).tolist()], chosen.sum())
                lines.append(f"The {split} split has {what} of {chosen.sum()} of {len(class_names)} classes ({named}).")
    return lines


def _duplicates(parts: Mapping[Split, Subset]) -> list[str]:
    """Name images that lie in two splits, byte for byte."""
    lines = []
    for split, other in _PAIRS:
        if split not in parts or other not in parts:
            continue
        names, _, contents = parts[split]
        others, _, known = parts[other]
        found = np.flatnonzero(np.isin(contents, known[known != 0])).tolist()
        if found:
            twins = (f"{names[i]} = {others[int(np.argmax(known == contents[i]))]}" for i in found[:_NAMED])
            lines.append(
                f"Images of the {split} split that are in the {other} split too, byte for byte, which inflates "
                f"accuracy: {len(found):,} of {len(names):,} ({_some([*twins], len(found))})."
            )
    return lines


def _faint_pictures(known: Check) -> list[str]:
    """Name the pictures of 16 bits of which 8 keep next to nothing."""
    if not known.faint:
        return []
    return [
        "Images of 16 bits that use less than an eighth of their range, so that 8 bits (value / 257) leave them nearly "
        f"blank: {len(known.faint):,} of {len(known.contents):,} ({_some(known.faint, len(known.faint))}).\n"
        "Train on gray images of 16 bits with data.init_args.bits: 16, or convert them to 8 bits, all by one range."
    ]


def _some(names: Sequence[str], of: int) -> str:
    """Name a few of so many."""
    more = f" and {of - _NAMED} more" if of > _NAMED else ""
    return as_text(", ".join(names[:_NAMED])) + more
