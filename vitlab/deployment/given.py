"""Pictures as Python gives them to a trained model: files, folders, Pillow's images, arrays, and lists of these."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image

from vitlab.data.decoding import PictureMode, Pixels, checked, to_array, upright

if TYPE_CHECKING:
    from vitlab.deployment.predict import Pictures

Picture = Image.Image | np.ndarray
Given = Union[str, Path, Picture, Sequence["Given"], Iterator["Given"]]  # noqa: UP007  # a string cannot stand at a |

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
HELD = 16  # pictures that the model is given at a time
WANTED = "give files or folders, Pillow images, arrays (H, W, C) of uint8, or lists of these"


class PicturesInMemory:
    """Pictures that are decoded already, as `Pictures` are that lie in files; called picture 0, picture 1 and so on."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.pictures, self.root = pictures, Path("pictures in memory")
        self.names = [f"picture {i}" for i in range(len(pictures))]
        self.broken: dict[str, str] = {}

    def read(self, mode: PictureMode) -> Iterator[tuple[list[str], list[Pixels]]]:
        """Yield names and pictures (H, W, C).

        Raises:
            ValueError: one of them is no picture: rows answer what was given in its order, so that none is left out.
        """
        for start in range(0, len(self.pictures), HELD):
            names, pictures = self.names[start : start + HELD], self.pictures[start : start + HELD]
            yield names, [_pixels(picture, mode, name) for name, picture in zip(names, pictures, strict=True)]


def pictures_of(given: Iterable[Given]) -> "Pictures | PicturesInMemory":
    """Return what a user gave, to be read.

    Raises:
        ValueError: nothing, something that is no picture, or both files and pictures in memory.
    """
    from vitlab.deployment.predict import Pictures

    flat = list(_flat(given))
    paths = [each for each in flat if isinstance(each, Path)]
    held = [each for each in flat if not isinstance(each, Path)]
    if not flat or (paths and held):
        raise ValueError(f"{'Both files and pictures in memory' if flat else 'No picture'}: {WANTED}.")
    return Pictures(paths) if paths else PicturesInMemory(held)


def _flat(given: Iterable[Given]) -> Iterator[Path | Picture]:
    for each in given:
        if isinstance(each, str | Path):
            yield Path(each)
        elif isinstance(each, Image.Image | np.ndarray):
            yield each
        elif isinstance(each, Sequence | Iterator) and not isinstance(each, bytes):
            yield from _flat(each)
        else:
            raise ValueError(f"{type(each).__name__} is no picture: {WANTED}.")


def _pixels(picture: Picture, mode: PictureMode, name: str) -> Pixels:
    """Return the pixels that a file of the picture would have, of an array with fitting channels the array itself."""
    try:
        if isinstance(picture, np.ndarray):
            pixels = checked(picture)
            if pixels.shape[2] == CHANNELS.get(mode, pixels.shape[2]):
                return pixels
            picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return to_array(upright(picture), mode)
    except (ValueError, TypeError) as error:  # Pillow's is of the second kind: it has no such mode
        raise ValueError(f"{name}: {error}.") from None
