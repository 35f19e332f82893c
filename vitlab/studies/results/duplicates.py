"""Test images that are also training or validation images, found by the hash of their file or of their pixels.

A model may have memorized them, which inflates its accuracy. Only exact copies are found, not crops or other encodings.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from referee.formats import counted

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config
from vitlab.studies.file.images import Images, Split
from vitlab.studies.results.folds import parts_of

EXAMPLES = 3


class Duplicates(NamedTuple):
    """The copies in a data set's test split."""

    images: int  # of the test split
    copies: dict[str, int]  # number of them that are in another split, by the name of that split
    examples: list[list[str]]  # names of a test image and of its original
    unknown: int = 0  # test images without a hash

    def __str__(self) -> str:
        """State what was found, in one or two sentences; empty if nothing."""
        lines = []
        if self.examples:
            pairs = ", ".join(f"{name} = {original}" for name, original in self.examples)
            where = " and ".join(f"{count:,} in the {split} split" for split, count in self.copies.items() if count)
            lines.append(
                f"Of {counted(self.images, 'test image')}, exact copies are also {where}, which inflates accuracy: "
                f"{pairs}{' and more' if sum(self.copies.values()) > len(self.examples) else ''}."
            )
        if self.unknown:
            count = counted(self.unknown, "test image")
            lines.append(f"Copies of {count} in other splits were not looked for: their source gives no hash.")
        return " ".join(lines)


def duplicates(images: Images, data: Config, cache: Path) -> Duplicates:
    """Return the copies in a data set, from the cache if that has these settings and these images.

    Args:
        data: The settings that choose the images.
    """
    key = {"data": data, "splits": images.facts()["splits"]}
    known = read_cache(cache, [])
    for record in known:
        if {name: record.get(name) for name in key} == key:
            return Duplicates(**record["duplicates"])
    found = [_find(part) for part in parts_of(images)]
    totals = {split: sum(each.copies.get(split, 0) for each in found) for split in found[0].copies}
    examples = [example for each in found for example in each.examples][:EXAMPLES]
    copies = Duplicates(sum(each.images for each in found), totals, examples, sum(each.unknown for each in found))
    known.append(key | {"duplicates": copies._asdict()})
    write_text(cache, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
    return copies


def _find(images: Images) -> Duplicates:
    test, names = images.contents("test"), images.image_names("test")
    copies: dict[str, int] = {}
    examples: list[list[str]] = []
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        others = images.image_names(split)
        if split == "val" and others == names:
            continue  # the test split is the validation split, which the report says
        contents = images.contents(split)
        hits = np.flatnonzero(np.isin(test, contents[contents != 0]))
        copies[split] = len(hits)
        original = {content: others[index] for index, content in enumerate(contents.tolist())} if len(hits) else {}
        examples += [[names[index], original[int(test[index])]] for index in hits[: EXAMPLES - len(examples)].tolist()]
    return Duplicates(len(test), copies, examples, int((test == 0).sum()))
