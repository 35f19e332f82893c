"""A folder of pictures from which nothing can be learned: what is found above chance found itself."""

from pathlib import Path

import numpy as np
from PIL import Image


def make_noise(root: Path, counts: dict[str, int]) -> None:
    """Write 8 x 8 pictures of the classes a and b, so many of each in a split."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for name in ("a", "b"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i:03}.png")
