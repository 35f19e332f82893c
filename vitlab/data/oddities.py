"""What a user should know of a data set before trusting its numbers. Nothing is changed or left out."""

from collections import Counter
from collections.abc import Mapping, Sequence, Sized

import numpy as np
from jaxtyping import UInt8, UInt64

from vitlab.data.checking import Check
from vitlab.data.dataset import Split, Subset
from vitlab.data.decoding import as_text

NEAR = 10  # of 128 signs that differ; unrelated photographs of one kind differ in 15 or more
MOST_COMPARED = 20_000  # images: a second
_FEW = 10  # images of a class in the test split: each is then 10 % of the class's accuracy
_NAMED = 3
_PAIRS: tuple[tuple[Split, Split], ...] = (("test", "train"), ("val", "train"), ("test", "val"))  # the worst first


def oddities(class_names: Sequence[str], parts: Mapping[Split, Subset], known: Check) -> list[str]:
    """Return remarks on classes of few images, images in two splits or with two labels, and blank 16-bit images."""
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
    spelled = Counter(name.casefold() for name in class_names)
    if alike := [name for name in class_names if spelled[name.casefold()] > 1]:
        lines.append(f"Classes whose names differ in letter case alone: {len(alike)} ({_some(alike, len(alike))}).")
    for split, (names, labels, contents, _) in parts.items():
        _, start, group = np.unique(contents, return_index=True, return_inverse=True)
        first = np.where(contents == 0, np.arange(len(names)), start[group])  # of those that are equal
        doubled = np.flatnonzero((labels != labels[first]).reshape(len(names), -1).any(axis=1)).tolist()
        kind = [f" ({class_names[k]})" for k in labels] if labels.ndim == 1 else [""] * len(names)
        pairs = [f"{names[i]}{kind[i]} = {names[first[i]]}{kind[first[i]]}" for i in doubled]
        lines += _line(f"Images of the {split} split with two labels, though byte for byte the same", pairs, names)
    for split, other in (pair for pair in _PAIRS if parts.keys() >= set(pair)):
        names, others = parts[split].names, parts[other].names
        pairs = [f"{names[i]} = {others[k]}" for i, k in copies(parts[split].contents, parts[other].contents).items()]
        what = f"Images of the {split} split that are in the {other} split too, byte for byte, which inflates accuracy"
        lines += _line(what, pairs, names)
    if "test" in parts:
        tested, *rest = (parts[split] for split in ("test", "train", "val") if split in parts)
        bank = rest[0].joined(rest[1]) if len(rest) > 1 else rest[0]
        same, near = copies(tested.contents, bank.contents), look_alikes(tested.dhashes, bank.dhashes)
        what = (
            "Images of the test split that look almost like images of another split, which inflates accuracy if they "
            "show the same (`groups` keeps one scene in one split), and not if they only share a layout"
        )
        pairs = [f"{tested.names[i]} and {bank.names[k]}" for i, k in near.items() if i not in same]
        lines += _line(what, pairs, tested.names)
    what = "Images of 16 bits that 8 bits (value / 257) leave nearly blank, unless data.window is given"
    return lines + _line(what, known.faint, known.contents)


def copies(contents: UInt64[np.ndarray, "N"], others: UInt64[np.ndarray, "M"]) -> dict[int, int]:
    """Return the index of each image that another split has too, and that of its first copy there; 0 is no hash."""
    known, first = np.unique(others, return_index=True)
    originals = dict(zip(known.tolist(), first.tolist(), strict=True))
    return {i: originals[each] for i, each in enumerate(contents.tolist()) if each and each in originals}


def look_alikes(hashes: UInt8[np.ndarray, "N 32"], others: UInt8[np.ndarray, "M 32"]) -> dict[int, int]:
    """Return the index of each image that looks almost like one of others, and that of the most similar of these.

    By their difference hashes, see `dhash_of`. None are returned of more than MOST_COMPARED images.
    """
    if len(hashes) + len(others) > MOST_COMPARED:
        return {}
    signs, bank = (np.unpackbits(each, axis=1).astype(np.float32) for each in (hashes, others))
    signs, bank = signs[:, :128] - signs[:, 128:], bank[:, :128] - bank[:, 128:]  # −1, 0 and 1
    found: dict[int, int] = {}
    for start in range(0, len(signs), 1000):  # or the table of all pairs would take gigabytes
        alike = signs[start : start + 1000] @ bank.T  # 128 − twice the number of signs that differ
        near = np.flatnonzero(alike.max(axis=1) >= 128 - 2 * NEAR).tolist()
        found |= {start + i: int(alike[i].argmax()) for i in near}
    return found


def _line(what: str, found: Sequence[str], of: Sized) -> list[str]:
    return [f"{what}: {len(found):,} of {len(of):,} ({_some(found, len(found))})."] if found else []


def _some(names: Sequence[str], total: int) -> str:
    return as_text(", ".join(names[:_NAMED])) + (f" and {total - _NAMED} more" if total > _NAMED else "")
