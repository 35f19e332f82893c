"""Test images that are also training or validation images, or look like them.

A model may have memorized them, which inflates its accuracy. Exact copies are found by the hash of their file or of
their pixels. Photographs are also compared by 128 signs, whether each of 9 × 9 fields is brighter than its neighbors
(the difference hash): other encodings, sizes and brightness change few of them, another crop most.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from referee.formats import counted
from torch.nn.functional import interpolate

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config
from vitlab.studies.file.fairness import Images, Split

EXAMPLES = 3
NEAR = 10  # of 128 signs that differ; unrelated photographs of one kind differ in 15 or more
LEAST_SIDE = 32  # px in evaluation; smaller pictures have too little in them to differ
MOST_IMAGES = 20_000  # to be decoded
Signs = dict[str, np.ndarray]
"""By the name of an image, (128,) of −1, 0 and 1."""


class Duplicates(NamedTuple):
    """The copies in a data set's test split."""

    images: int  # of the test split
    copies: dict[str, int]  # number of them that are in another split, by the name of that split
    examples: list[list[str]]  # names of a test image and of its original
    unknown: int = 0  # test images without a hash
    near: int = 0  # test images that look like one of another split, and are no copies
    near_examples: list[list[str]] = []  # noqa: RUF012  # never changed

    def __str__(self) -> str:
        """State what was found, in one to three sentences; empty if nothing."""
        lines = []
        if self.examples:
            pairs = ", ".join(f"{name} = {original}" for name, original in self.examples)
            where = " and ".join(f"{count:,} in the {split} split" for split, count in self.copies.items() if count)
            lines.append(
                f"Of {counted(self.images, 'test image')}, exact copies are also {where}, which inflates accuracy: "
                f"{pairs}{' and more' if sum(self.copies.values()) > len(self.examples) else ''}."
            )
        if self.near:
            pairs = ", ".join(f"{name} and {other}" for name, other in self.near_examples)
            verb, more = "looks" if self.near == 1 else "look", " and more" * (self.near > len(self.near_examples))
            lines.append(
                f"{counted(self.near, 'test image')} {verb} almost like images of another split, which inflates "
                f"accuracy if they show the same: {pairs}{more}. Move what shows one scene to one split; with `folds`, "
                "`groups` keeps it together."
            )
        if self.unknown:
            count = counted(self.unknown, "test image")
            lines.append(f"Copies of {count} in other splits were not looked for: their source gives no hash.")
        return " ".join(lines)


def duplicates(images: Images, data: Config, cache: Path) -> Duplicates:
    """Return the copies in a data set, from the cache if that has these images, and `data`, what chooses them."""
    key = {"data": data, "splits": images.facts()["splits"]}
    known = [record for record in read_cache(cache, []) if isinstance(record, dict)]
    for record in known:
        with suppress(KeyError, TypeError):  # another's
            if {name: record.get(name) for name in key} == key:
                return Duplicates(**record["duplicates"])
    signs: Signs = {}
    found = [_find(part, signs) for part in getattr(images, "parts", [images])]  # of a `Pool`
    totals = {split: sum(each.copies.get(split, 0) for each in found) for split in found[0].copies}
    examples = [example for each in found for example in each.examples][:EXAMPLES]
    near = [example for each in found for example in each.near_examples][:EXAMPLES]
    whole = {name: sum(getattr(each, name) for each in found) for name in ("images", "unknown", "near")}
    copies = Duplicates(copies=totals, examples=examples, near_examples=near, **whole)
    known.append(key | {"duplicates": copies._asdict()})
    write_text(cache, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return copies


def _find(images: Images, signs: Signs) -> Duplicates:
    test, names = images.contents("test"), images.image_names("test")
    copies: dict[str, int] = {}
    examples: list[list[str]] = []
    copied = np.zeros(len(test), dtype=bool)
    # Where the test split is the validation split, the report says so.
    splits: list[Split] = ["train"] if images.image_names("val") == names else ["train", "val"]
    for split in splits:
        others = images.image_names(split)
        contents = images.contents(split)
        hits = np.flatnonzero(np.isin(test, contents[contents != 0]))
        copies[split], copied[hits] = len(hits), True
        original = {content: others[index] for index, content in enumerate(contents.tolist())} if len(hits) else {}
        examples += [[names[index], original[int(test[index])]] for index in hits[: EXAMPLES - len(examples)].tolist()]
    near = _look_alikes(images, splits, copied, signs)
    return Duplicates(len(test), copies, examples, int((test == 0).sum()), len(near), near[:EXAMPLES])


def _look_alikes(images: Images, splits: list[Split], copied: np.ndarray, signs: Signs) -> list[list[str]]:
    """Return the names of test photographs that are no copies, each with the most similar image of another split."""
    everything: list[Split] = ["test", *splits]
    names = {split: images.image_names(split) for split in everything}
    (first,) = images.raw_images("test", [0])
    if min(first.shape[:2]) < LEAST_SIDE or sum(map(len, names.values())) > MOST_IMAGES:
        return []
    for split in everything:
        for index, name in enumerate(names[split]):
            if name not in signs:
                signs[name] = _signs_of(*images.raw_images(split, [index]))
    others = [name for split in splits for name in names[split]]
    test, bank = (np.stack([signs[name] for name in part]) for part in (names["test"], others))
    differing = (test.shape[1] - test @ bank.T) / 2
    nearest = differing.argmin(axis=1)
    hits = np.flatnonzero((differing.min(axis=1) <= NEAR) & ~copied)
    return [[names["test"][index], others[nearest[index]]] for index in hits.tolist()]


def _signs_of(image: np.ndarray) -> np.ndarray:
    gray = torch.from_numpy(np.ascontiguousarray(image)).float().mean(dim=2)
    fields = interpolate(gray[None, None], (9, 9), mode="bilinear", antialias=True)[0, 0]
    across, down = fields[:8].diff(dim=1), fields[:, :8].diff(dim=0)  # (8, 8) each
    return torch.cat([across.flatten(), down.flatten()]).sign().numpy()
