"""A run is trained, continued and tested on the images that it began with, or says so.

Images that come or go would be split again: some that were trained on would then test.
"""

from collections.abc import Sequence
from pathlib import Path

from vitlab.data import ImageDataModule
from vitlab.data.dataset import SPLITS, Split
from vitlab.runs.directory import RunDirectory


def other_images(directory: Path, data: ImageDataModule, splits: Sequence[Split] = SPLITS) -> list[str] | None:
    """Return, in words, which splits are not those of a run's start; None if its data.json was removed."""
    then = RunDirectory(directory).data.get("splits", {})
    if not then:
        return None
    now = data.facts()["splits"]
    changed = [split for split in splits if then[split]["digest"] != now[split]["digest"]]
    return [f"{split}: {then[split]['images']:,} images then, {now[split]['images']:,} now" for split in changed]
