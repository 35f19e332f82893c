"""Pictures from which nothing can be learned: what is found above chance found itself. And shards of any records."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def make_noise(
    root: Path,
    counts: dict[str, int],
    names: Sequence[str] = ("a", "b"),
    size: tuple[int, int] = (8, 8),
    suffix: str = "png",
) -> None:
    """Write pictures of some classes, so many of each in a split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in names:
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03}.{suffix}")


def write_shards(place: Path, records: Iterable[dict[str, Any]], chunk_size: int = 2) -> str:
    """Write records as LitData does; return their folder."""
    from litdata.streaming import Cache

    cache = Cache(str(place), chunk_size=chunk_size)
    for number, record in enumerate(records):
        cache[number] = record
    cache.done()
    cache.merge()
    return str(place)
