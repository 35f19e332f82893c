"""Textured shapes on textured ground, drawn when they are first used: the mask and the size of each object are known.

Color and stripes of ground and object are drawn from the same distribution, and gray noise covers both. So neither
brightness nor color separates objects from ground in all images.

Letters: N images, H rows, W columns; x and y run from the object's center, in units of the root of its area.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped, UInt8
from torch import Tensor
from torch.nn import functional as F

from vitlab.data.augment import BatchAugment
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.dataset import STRATUM, Split
from vitlab.data.in_memory import InMemoryDataModule, TensorImages

SIDE = 32  # pixels
TRAIN, TEST = 3600, 1200  # images, equally many of each class
SIZES = (7, 10, 13, 16)  # pixels, the root of an object's area: borders of three strata
REACH = 0.92  # from the center to the farthest corner of any shape
TURN = math.pi / 12  # either way
APART = 0.4  # least distance of the two colors, channels from 0 to 1
CANDIDATES = 8  # colors, of which the first that is far enough is taken, or the farthest
NOISE = 0.05  # half of its range

Coordinates = Float[np.ndarray, "N H W"]
Mask = Bool[np.ndarray, "N H W"]


SHAPES: dict[str, Callable[[Coordinates, Coordinates], Mask]] = {  # each of area 1
    "disk": lambda x, y: x**2 + y**2 < 1 / math.pi,
    # The inner radius is half of the outer one.
    "ring": lambda x, y: (x**2 + y**2 > 1 / (3 * math.pi)) & (x**2 + y**2 < 4 / (3 * math.pi)),
    "square": lambda x, y: (abs(x) < 0.5) & (abs(y) < 0.5),
    "bar": lambda x, y: (abs(x) < math.sqrt(3) / 2) & (abs(y) < 1 / math.sqrt(12)),  # 3 : 1
    "triangle": lambda x, y: (
        np.maximum.reduce([math.cos(turn) * x + math.sin(turn) * y for turn in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)])
        < 27**-0.25
    ),
    "cross": lambda x, y: (  # of five squares
        (np.maximum(abs(x), abs(y)) < 1.5 / math.sqrt(5)) & (np.minimum(abs(x), abs(y)) < 0.5 / math.sqrt(5))
    ),
}


@final
@dataclass(kw_only=True, eq=False, repr=False)
class Shapes(InMemoryDataModule):
    """Six classes of shapes of 7 to 16 pixels, placed at random on 32 x 32 pixels and turned by up to 15 degrees.

    3,600 images to train and validate on, 1,200 to test on, the same for every seed.

    Args:
        augment: by default shifts of up to two pixels, and half of the images mirrored.
    """

    native_size = SIDE
    class_names: ClassVar[list[str]] = list(SHAPES)

    image_size: int = SIDE
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.208, 0.208, 0.208)
    augment: BatchAugment = BatchAugment(shift=2, flip_prob=0.5)

    def read_splits(self) -> dict[Split, TensorImages]:
        labels = np.arange(TRAIN + TEST) % len(SHAPES)
        images, self._masks, self._sizes = draw(labels)
        names = [f"shapes/{number:04d}" for number in range(len(labels))]
        kept, held_out = self.hold_out(labels[:TRAIN], names[:TRAIN], self.val_fraction)
        tested = np.arange(TRAIN, TRAIN + TEST)
        self._numbers: dict[Split, np.ndarray] = {"train": kept, "val": held_out, "test": tested}
        return {
            split: TensorImages(images[numbers], labels[numbers], [names[number] for number in numbers])
            for split, numbers in self._numbers.items()
        }

    def masks(self, split: Split) -> Bool[Tensor, "N H W"]:
        numbers = self._numbers_of(split)  # which draws the masks
        masks, size = torch.from_numpy(self._masks[numbers]), (self.image_size, self.image_size)
        resized = F.interpolate(masks[:, None].float(), size, mode="nearest-exact")  # exact at the stored size
        return resized[:, 0].bool()

    def strata(self, split: Split) -> dict[str, Shaped[np.ndarray, "N"]]:
        names = np.array([f"{least} to {most}" for least, most in pairwise(SIZES)])
        return {STRATUM: names[np.searchsorted(SIZES, self.sizes(split), side="right") - 1]}

    def sizes(self, split: Split) -> Float[np.ndarray, "N"]:
        """Return the root of each object's area, in pixels of the stored images."""
        numbers = self._numbers_of(split)
        return self._sizes[numbers]

    def _numbers_of(self, split: Split) -> Int64[np.ndarray, "N"]:
        """Return the number of each image among all that are drawn."""
        self.dataset(split)  # draws them, once
        numbers = self._numbers[split]
        return numbers if split != "train" or self._chosen is None else numbers[self._chosen]


def draw(labels: Int64[np.ndarray, "N"]) -> tuple[UInt8[Tensor, "N 3 H W"], Mask, Float[np.ndarray, "N"]]:
    """Return images, masks and sizes in pixels: a function of each image's number and label."""
    draws = Draws(0, 0, torch.arange(len(labels)))
    u = draws.uniform(Stream.SHAPE, 12 + 3 * (1 + CANDIDATES)).numpy()  # (N, 39)
    noise = draws.uniform(Stream.SHAPE_NOISE, SIDE**2).view(-1, SIDE, SIDE).numpy()
    size = SIZES[0] + u[:, 0] * (SIZES[-1] - SIZES[0])  # below the last: u < 1
    rows, columns = np.meshgrid(*2 * [np.arange(SIDE, dtype=np.float32) + 0.5], indexing="ij")

    center = REACH * size + u[:, 1:3].T * (SIDE - 2 * REACH * size)  # (2, N): objects are whole
    down, right = rows - center[0, :, None, None], columns - center[1, :, None, None]
    cos, sin = _cos_sin(TURN * (2 * u[:, 3] - 1))
    x, y = (_along(c / size, s / size, right, down) for c, s in ((cos, sin), (-sin, cos)))
    masks = np.empty_like(x, dtype=bool)
    for label, inside in enumerate(SHAPES.values()):
        masks[labels == label] = inside(x[labels == label], y[labels == label])

    colors = 0.15 + 0.7 * u[:, 12:].reshape(len(u), -1, 3)  # of the ground, then candidates for the object
    ground, others = colors[:, 0], colors[:, 1:]
    apart = np.sqrt(((others - ground[:, None]) ** 2).sum(axis=2))  # (N, CANDIDATES)
    first = np.minimum(apart, APART).argmax(axis=1)
    objects = np.take_along_axis(others, first[:, None, None], axis=1)[:, 0]
    gray = np.where(masks, _stripes(u[:, 4:8], columns, rows), _stripes(u[:, 8:12], columns, rows))
    gray += 2 * NOISE * noise - NOISE
    images = np.empty((len(labels), 3, SIDE, SIDE), np.uint8)
    for channel in range(3):
        flat = np.where(masks, objects[:, channel, None, None], ground[:, channel, None, None])
        images[:, channel] = np.rint(((flat + gray) * 255).clip(0, 255))
    return torch.from_numpy(images), masks, size


def _cos_sin(angle: Float[np.ndarray, "N"]) -> tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Return float32 from float64, so that processors, whose last bits differ, draw the same images."""
    exact = angle.astype(np.float64)
    return np.cos(exact).astype(np.float32), np.sin(exact).astype(np.float32)


def _along(across: np.ndarray, down: np.ndarray, x: np.ndarray, y: np.ndarray) -> Coordinates:
    """Return across · x + down · y of each image."""
    return across[:, None, None] * x + down[:, None, None] * y


def _stripes(v: Float[np.ndarray, "N 4"], columns: np.ndarray, rows: np.ndarray) -> Coordinates:
    """Return a triangle wave in a direction, from 3 to 8 pixels long and of amplitude 0.02 to 0.1."""
    (cos, sin), length = _cos_sin(np.pi * v[:, 0]), 3 + 5 * v[:, 1]
    phase = _along(cos / length, sin / length, columns, rows) + v[:, 2, None, None]
    return (0.02 + 0.08 * v[:, 3, None, None]) * (4 * np.abs(phase - np.floor(phase) - 0.5) - 1)
