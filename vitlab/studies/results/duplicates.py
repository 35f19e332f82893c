"""Test images that are also training or validation images, or look like them.

A model may have memorized them, which inflates its accuracy. Exact copies are found by the hash of their file or of
their pixels. Photographs are also compared by 128 signs, whether each of 9 × 9 fields is brighter than its neighbors
(the difference hash): other encodings, sizes and brightness change few of them, another crop most.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from referee.formats import counted
from torch.nn.functional import interpolate

from vitlab.atomic_files import read_cache, write_text
from vitlab.config import Config
from vitlab.data.oddities import copies
from vitlab.studies.file.fairness import Images, Split

EXAMPLES = 3
NEAR = 10  # of 128 signs that differ; unrelated photographs of one kind differ in 15 or more
LEAST_SIDE = 32  # px in evaluation; smaller pictures have too little in them to differ
MOST_IMAGES = 20_000  # to be decoded
Signs = dict[str, np.ndarray]
"""By the name of an image, (128,) of −1, 0 and 1."""


def duplicates(images: Images, data: Config, cache: Path) -> str:
    """State which test images are in other splits too, in one to three sentences; empty if none.

    The sentences come from the cache if that has these images, and `data`, what chooses them.
    """
    key = {"data": data, "splits": images.facts()["splits"]}
    known = [record for record in read_cache(cache, []) if isinstance(record, dict)]
    for record in known:
        if "found" in record and {name: record.get(name) for name in key} == key:
            return str(record["found"])
    found = " ".join(_sentences(images))
    write_text(cache, json.dumps([*known, key | {"found": found}], indent=2, ensure_ascii=False) + "\n")
    return found


def _sentences(images: Images) -> list[str]:
    signs: Signs = {}
    total = unknown = 0
    counts: Counter[str] = Counter()
    equal, near = list[str](), list[str]()
    for part in getattr(images, "parts", [images]):  # of a `Pool`
        test, names = part.contents("test"), part.image_names("test")
        total, unknown = total + len(test), unknown + int((test == 0).sum())
        # Where the test split is the validation split, the report says so.
        splits: list[Split] = ["train"] if part.image_names("val") == names else ["train", "val"]
        copied = np.zeros(len(test), dtype=bool)
        for split in splits:
            others, pairs = part.image_names(split), copies(test, part.contents(split))
            equal += [f"{names[index]} = {others[original]}" for index, original in pairs.items()]
            counts[split] += len(pairs)
            copied[[*pairs]] = True
        near += look_alikes(part, splits, copied, signs)
    lines = []
    if equal:
        where = " and ".join(f"{count:,} in the {split} split" for split, count in counts.items() if count)
        lines.append(
            f"Of {counted(total, 'test image')}, exact copies are also {where}, which inflates accuracy: "
            f"{', '.join(equal[:EXAMPLES])}{' and more' * (len(equal) > EXAMPLES)}."
        )
    if near:
        lines.append(
            f"{counted(len(near), 'test image')} look{'s' * (len(near) == 1)} almost like images of another split, "
            "which inflates accuracy if they show the same: "
            f"{', '.join(near[:EXAMPLES])}{' and more' * (len(near) > EXAMPLES)}. Move what shows one scene to one "
            "split; with `folds`, `groups` keeps it together."
        )
    if unknown:
        count = counted(unknown, "test image")
        lines.append(f"Copies of {count} in other splits were not looked for: their source gives no hash.")
    return lines


def look_alikes(images: Images, splits: list[Split], copied: np.ndarray, signs: Signs) -> list[str]:
    """Return the names of test photographs that are no copies, each with the most similar image of another split."""
    everything: list[Split] = ["test", *splits]
    names = {split: images.image_names(split) for split in everything}
    (first,) = images.raw_images("test", [0])
    if min(first.shape[:2]) < LEAST_SIDE or sum(map(len, names.values())) > MOST_IMAGES:
        return []
    for split in everything:
        for index, name in enumerate(names[split]):
            if name not in signs:
                (image,) = images.raw_images(split, [index])
                gray = torch.from_numpy(np.ascontiguousarray(image)).float().mean(dim=2)
                fields = interpolate(gray[None, None], (9, 9), mode="bilinear", antialias=True)[0, 0]
                across, down = fields[:8].diff(dim=1), fields[:, :8].diff(dim=0)  # (8, 8) each
                signs[name] = torch.cat([across.flatten(), down.flatten()]).sign().numpy()
    others = [name for split in splits for name in names[split]]
    test, bank = (np.stack([signs[name] for name in part]) for part in (names["test"], others))
    differing = (test.shape[1] - test @ bank.T) / 2
    nearest = differing.argmin(axis=1)
    hits = np.flatnonzero((differing.min(axis=1) <= NEAR) & ~copied)
    return [f"{names['test'][index]} and {others[nearest[index]]}" for index in hits.tolist()]
