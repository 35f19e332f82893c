"""RandAugment (Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020) on
whole batches, on their device, as timm does it to single pictures.

timm's description of it, its lists of operations and its laws: how many, which, how strong. An image's pixels come out
as Pillow's, to the bit but where Pillow interpolates or blurs. All randomness is a function of (seed, epoch, image).

What happens to which image is decided on the host, so that each operation works on its own images only: of fifteen, an
image takes one on average. A GPU is not waited for, since a batch keeps its indices on the host as well
(`Draws.host_indices`; without them it is, once), and since rows and levels go there from pinned memory.

Letters: B images in the batch, R of them that an operation changes, C channels (1 or 3), H rows, W columns, D draws.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from PIL import Image
from torch import Tensor

from vitlab.data import pillow
from vitlab.data.counter_rng import Draws, Stream, to_device

# timm takes no notice of a part that it does not understand: `-minc1` would be plain RandAugment of another strength.
_DESCRIPTION = re.compile(r"rand(-(m|n|mmax)\d+|-inc[01]|-(mstd|p)\d+(\.\d+)?|-t(weights|3a|3aw))*")
_FULL = 10  # the magnitude to which timm's ranges are given, and the largest without -mmax
_DRAWS = 6  # of an operation: which, whether, its magnitude's noise (2), its sign, its interpolation
_LARGEST_BLUR = 2.0  # timm's GaussianBlur at full magnitude

Images = UInt8[Tensor, "R C H W"]
Levels = Float[Tensor, "R 1 1 1"]
Tables = UInt8[Tensor, "R C 256"]
HostLevels = Float64[np.ndarray, "R"]
HostFlags = Bool[np.ndarray, "R"]


def check_description(text: str) -> None:
    """Refuse a description that timm does not understand.

    Raises:
        ValueError: one part of it at least is not timm's.
    """
    if not _DESCRIPTION.fullmatch(text):
        raise ValueError(
            f"augment.rand_augment is {text!r}; write rand and any of -m9 (magnitude), -n2 (layers), "
            "-p0.5, -mstd0.5, -mmax10, -inc1, -t3a, e.g. rand-m9-mstd0.5-inc1, or null for none."
        )


def timms_rand_augment(
    description: str, size: int, mean: Sequence[float], resampling: Image.Resampling | None
) -> Callable[[Image.Image], Image.Image]:
    """Return timm's RandAugment as its own training pipeline sets it up; without `resampling`, that is drawn each time.

    Raises:
        ValueError: more layers than operations, of which a weighted choice takes each once at most.
    """
    from timm.data.auto_augment import rand_augment_transform  # here: not everybody needs timm's two seconds

    parameters: dict[str, Any] = {
        "translate_const": int(0.45 * size),
        "img_mean": tuple(min(255, round(255 * x)) for x in mean),
    }
    if resampling is not None:
        parameters["interpolation"] = resampling
    transform = rand_augment_transform(description, parameters)
    if transform.choice_weights is not None and transform.num_layers > len(transform.ops):
        raise ValueError(
            f"augment.rand_augment is {description!r}, but of {len(transform.ops)} weighted operations none is taken "
            f"twice; write -n{len(transform.ops)} or less."
        )
    for operation in transform.ops:
        if operation.name.startswith("Posterize"):
            operation.level_fn = partial(_at_least_one_bit, operation.level_fn)
    return transform


def _at_least_one_bit(level_fn: Callable[..., tuple[int]], level: float, settings: dict) -> tuple[int]:
    """Keep one bit where a high magnitude would leave none, which Pillow refuses with an error."""
    (bits,) = level_fn(level, settings)
    return (max(bits, 1),)


# What is drawn.

# timm's functions from magnitude to level are called, but for these, which draw the sign from Python's own generator.
_SIGNED: dict[str, Callable[[HostLevels, HostLevels], HostLevels]] = {
    "Rotate": lambda share, sign: sign * share * 30,  # degrees
    "ShearX": lambda share, sign: sign * share * 0.3,
    "ShearY": lambda share, sign: sign * share * 0.3,
    "TranslateXRel": lambda share, sign: sign * share * 0.45,  # of the width
    "TranslateYRel": lambda share, sign: sign * share * 0.45,
    **dict.fromkeys(
        ("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
        lambda share, sign: np.maximum(0.1, 1 + sign * share * 0.9),
    ),
}


class Group(NamedTuple):
    """One operation in one layer and the images that it changes."""

    name: str
    rows: Int64[np.ndarray, "R"]
    levels: HostLevels
    cubic: HostFlags  # interpolates bicubically, not bilinearly


class RandAugment:
    """A function of a batch and its draws.

    Args:
        description: timm's, e.g. rand-m9-mstd0.5-inc1.
        size: side of the images in pixels.
        mean: of each channel, on the scale 0 … 1: what comes in at the border.
        resampling: Pillow's BILINEAR or BICUBIC; None: one of them is drawn each time, timm's default.
    """

    def __init__(
        self, description: str, size: int, mean: Sequence[float], resampling: Image.Resampling | None = None
    ) -> None:
        timms: Any = timms_rand_augment(description, size, mean, resampling)
        self.operations, self.layers, self.weights = timms.ops, timms.num_layers, timms.choice_weights
        self.resampling = resampling
        self._color = torch.tensor(self.operations[0].kwargs["fillcolor"], dtype=torch.uint8)[:, None, None]

    def __call__(self, images: UInt8[Tensor, "B C H W"], draws: Draws) -> UInt8[Tensor, "B C H W"]:
        """Distort a batch."""
        images = images.contiguous()  # photographs come channels last
        for groups in self.draw(draws.on_host):
            images = self._apply(images, groups)
        return images

    def draw(self, draws: Draws) -> list[list[Group]]:
        """Decide what happens, one list a layer; `draws` lie on the host."""
        count = len(self.operations)
        u = draws.uniform(Stream.RAND_AUGMENT, count + self.layers * _DRAWS).double().numpy()  # (B, D)
        times, u = u[:, :count], u[:, count:].reshape(len(u), self.layers, _DRAWS)
        which, whether, radius, angle, sign, filter = np.moveaxis(u, 2, 0)  # (B, layers) each
        if self.weights is None:
            chosen = (which * count).astype(np.int64)
        else:
            # The earliest of events at these rates, in their order: choosing by weight without replacement.
            chosen = (-np.log1p(-times) / self.weights).argsort(axis=1)[:, : self.layers]
        first = self.operations[0]  # all have the same probability and the same magnitude
        applied = whether < first.prob
        normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * math.pi * angle)  # Box and Muller
        magnitudes = self._magnitudes(first, normal, radius)
        signs = np.where(sign < 0.5, -1.0, 1.0)
        cubic = filter < 0.5
        if self.resampling is not None:
            cubic = np.full_like(cubic, self.resampling == Image.Resampling.BICUBIC)
        plan = []
        for layer in range(self.layers):
            groups = []
            kinds = np.where(applied[:, layer], chosen[:, layer], -1)
            for kind in np.unique(kinds[kinds >= 0]):
                operation, rows = self.operations[kind], np.flatnonzero(kinds == kind)
                levels = _levels(operation, magnitudes[rows, layer], signs[rows, layer])
                groups.append(Group(operation.name.removesuffix("Increasing"), rows, levels, cubic[rows, layer]))
            plan.append(groups)
        return plan

    @staticmethod
    def _magnitudes(operation: Any, normal: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Return timm's magnitudes: with noise, or for a deviation above 100 anything up to the magnitude."""
        magnitude, deviation = operation.magnitude, operation.magnitude_std
        drawn = magnitude * uniform if math.isinf(deviation) else magnitude + deviation * normal
        return drawn.clip(0, operation.magnitude_max or _FULL)

    def _apply(self, images: Tensor, groups: list[Group]) -> Tensor:
        ways = (
            (_by_fixed_tables, _FIXED_TABLES.keys()),
            (_by_own_tables, _OWN_TABLES.keys()),
            (_by_pixels, _BLENDS.keys()),
            (self._slide, _SLIDES.keys()),
            (self._rotate, {"Rotate"}),
        )
        kinds = [(way, sorted((g for g in groups if g.name in names), key=_along_y)) for way, names in ways]
        rows = np.concatenate([np.zeros(0, np.int64), *(group.rows for _, some in kinds for group in some)])
        sizes = [sum(len(group.rows) for group in some) for _, some in kinds]
        parts = images.index_select(0, _to(images.device, rows)).split(sizes)
        changed = [way(part, some) for (way, some), part in zip(kinds, parts, strict=True) if some]
        # Whole images are picked, of the old and the changed ones: five times as fast as to write these over those.
        source = np.arange(len(images))
        source[rows] = len(images) + np.arange(len(rows))
        return torch.cat([images, *changed]).index_select(0, _to(images.device, source))

    def _slide(self, images: Images, groups: list[Group]) -> Images:
        sizes = [len(group.rows) for group in groups]
        slope, offset = (np.repeat([_SLIDES[group.name][k] for group in groups], sizes) for k in range(2))
        levels, cubic = (np.concatenate(x) for x in zip(*(group[2:] for group in groups), strict=True))
        along_x = sum(len(group.rows) for group in groups if not _along_y(group))
        images = _transposed_from(along_x, images)
        images = slide(images, slope * levels, offset * levels * images.shape[-1], cubic, self._fill(images))
        return _transposed_from(along_x, images)

    def _rotate(self, images: Images, groups: list[Group]) -> Images:
        (group,) = groups
        return rotate(images, group.levels, group.cubic, self._fill(images))

    def _fill(self, images: Tensor) -> UInt8[Tensor, "C 1 1"]:
        """Return the color that comes in at the border; copied to a GPU once."""
        if self._color.device != images.device:
            self._color = to_device(self._color, images.device)
        return self._color


def _levels(operation: Any, magnitudes: HostLevels, signs: HostLevels) -> HostLevels:
    if operation.name in _SIGNED:
        return _SIGNED[operation.name](magnitudes / _FULL, signs)
    if operation.level_fn is None:
        return np.zeros_like(magnitudes)
    levels = np.array([operation.level_fn(x, operation.hparams)[0] for x in magnitudes], dtype=np.float64)
    return (1 - levels).clip(0, 1) if operation.name == "Desaturate" else levels  # of color that goes, or stays


def _to(device: torch.device, array: np.ndarray) -> Tensor:
    return to_device(torch.from_numpy(array), device)


# Changes of a gray level whatever surrounds it are tables, (R, C, 256); one look-up does many of them. Those of which a
# level says all are made on the host, (R, 256) of `levels` (R, 1).

_RAMP = np.arange(256)


def invert(levels: np.ndarray) -> np.ndarray:
    return np.broadcast_to(255 - _RAMP, (len(levels), 256))


def posterize(bits: np.ndarray) -> np.ndarray:
    """Keep so many bits."""
    return _RAMP & -(1 << (8 - bits.astype(np.int64)))


def solarize(threshold: np.ndarray) -> np.ndarray:
    """Invert what is as bright as the threshold, up to 256, or brighter."""
    return np.where(threshold > _RAMP, _RAMP, 255 - _RAMP)


def solarize_add(amount: np.ndarray) -> np.ndarray:
    """Brighten the darker half."""
    return np.where(_RAMP < 128, (_RAMP + amount).clip(max=255), _RAMP)


def brightness(factor: np.ndarray) -> np.ndarray:
    """Move away from black; in single precision and without the fraction, as Pillow blends."""
    return (factor.astype(np.float32) * _RAMP.astype(np.float32)).clip(max=255)


_FIXED_TABLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Brightness": brightness,
    "Invert": invert,
    "Posterize": posterize,
    "Solarize": solarize,
    "SolarizeAdd": solarize_add,
}


def contrast(images: Images, factor: Levels) -> Tables:
    """Move away from the mean gray."""
    count = images.shape[-2] * images.shape[-1]
    total = _gray(images).sum(dim=(1, 2, 3))[:, None, None]
    mean = (2 * total + count) // (2 * count)  # rounded, halves up
    return _blend(mean, torch.arange(256, device=images.device), factor[..., 0]).expand(-1, images.shape[1], -1)


def autocontrast(images: Images, _: Levels) -> Tables:
    """Stretch each channel to 0 … 255; in double precision, since a fraction cut off just below 255 makes it 254."""
    ramp = torch.arange(256, device=images.device)
    low, high = torch.aminmax(images.flatten(2), dim=2, keepdim=True)  # (R, C, 1) each
    scale = 255 / (high - low).clamp(min=1).double()
    stretched = (ramp * scale - low * scale).clamp_(0, 255).long()
    return torch.where(high > low, stretched, ramp).to(torch.uint8)


def equalize(images: Images, _: Levels) -> Tables:
    """Make each channel's gray levels equally frequent, as far as a function of the level can."""
    pixels = images.flatten(2).long()  # (R, C, H·W)
    count = pixels.shape[-1]
    histogram = torch.zeros(*pixels.shape[:2], 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(2, pixels, torch.ones_like(pixels))
    up_to = histogram.cumsum(dim=2)
    brightest = (histogram * (up_to == count)).sum(dim=2, keepdim=True)  # how often the brightest level occurs
    step = (count - brightest) // 255
    table = ((step // 2 + up_to - histogram) // step.clamp(min=1)).clamp_(max=255)
    # Of too few pixels Pillow leaves them all.
    return torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)


_OWN_TABLES: dict[str, Callable[[Images, Levels], Tables]] = {
    "AutoContrast": autocontrast,
    "Contrast": contrast,
    "Equalize": equalize,
}


def _by_fixed_tables(images: Images, groups: list[Group]) -> Images:
    tables = np.concatenate([_FIXED_TABLES[group.name](group.levels[:, None]) for group in groups]).astype(np.uint8)
    return _look_up(_to(images.device, tables)[:, None].expand(-1, images.shape[1], -1), images)


def _by_own_tables(images: Images, groups: list[Group]) -> Images:
    parts = _parts(images, groups)
    return _look_up(torch.cat([_OWN_TABLES[group.name](part, level) for group, part, level in parts]), images)


def _look_up(tables: Tables, images: Images) -> Images:
    return tables.gather(2, images.flatten(2).long()).view_as(images)


# Changes of a pixel by its own colors or its neighbors.


def color(images: Images, factor: Levels) -> Images:
    """Move away from each pixel's gray."""
    return images if images.shape[1] == 1 else _blend(_gray(images), images, factor)


def sharpness(images: Images, factor: Levels) -> Images:
    """Move away from the mean of 3 x 3 pixels, the middle counted five times; the border stays."""
    x = images.short()
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * x[..., 1:-1, 1:-1]
    smooth = x.clone()
    smooth[..., 1:-1, 1:-1] = (2 * total + 13) // 26  # the thirteenth, rounded
    return _blend(smooth, images, factor)


def gaussian_blur(images: Images, radius: Levels) -> Images:
    return pillow.blur(images.float(), radius.flatten(), _LARGEST_BLUR).to(torch.uint8)


_BLENDS: dict[str, Callable[[Images, Levels], Images]] = {
    "Color": color,
    "Desaturate": color,
    "GaussianBlur": gaussian_blur,
    "Sharpness": sharpness,
}


def _by_pixels(images: Images, groups: list[Group]) -> Images:
    return torch.cat([_BLENDS[group.name](part, level) for group, part, level in _parts(images, groups)])


def _parts(images: Images, groups: list[Group]) -> Iterator[tuple[Group, Images, Levels]]:
    levels = _to(images.device, np.concatenate([group.levels for group in groups]).astype(np.float32))
    sizes = [len(group.rows) for group in groups]
    return zip(groups, images.split(sizes), levels[:, None, None, None].split(sizes), strict=True)


def _gray(images: Images) -> Int64[Tensor, "R 1 H W"]:
    """Return the luma in Pillow's fixed-point arithmetic."""
    if images.shape[1] == 1:
        return images.long()
    red, green, blue = images.long().split(1, dim=1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blend(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Blend as Pillow: in single precision, and the conversion cuts off the fraction."""
    base = base.float()
    return ((images - base).mul_(factor).add_(base)).clamp_(0, 255).to(torch.uint8)  # torch.lerp rounds otherwise


# Changes of place. A pixel whose middle comes from outside becomes `fill`; inside, the border's pixels go on for ever.

# How many pixels a row moves: of the level, times the row's distance from the first, and times the side.
_SLIDES = {"ShearX": (1, 0), "ShearY": (1, 0), "TranslateXRel": (0, 1), "TranslateYRel": (0, 1)}


def _along_y(group: Group) -> bool:
    return group.name in ("ShearY", "TranslateYRel")


def _transposed_from(first: int, images: Images) -> Images:
    """Swap rows and columns of all images but the first ones."""
    return torch.cat([images[:first], images[first:].mT])


def slide(images: Images, slope: HostLevels, offset: HostLevels, cubic: HostFlags, fill: Tensor) -> Images:
    """Take each pixel from slope · (row + 1/2) + offset further right: a shear or a translation in x.

    All pixels of a row move by the same, so that one interpolation of W + 3 neighbors makes the row.
    """
    C, H, W = images.shape[1:]
    move = slope[:, None] * (np.arange(H) + 0.5) + offset[:, None]  # (R, H)
    whole = np.floor(move)
    inside = np.ceil(-0.5 - move), np.ceil(W - 0.5 - move)  # the first column from there, and the one after the last
    numbers = np.stack([whole, *inside, *_weights(move - whole, cubic[:, None])]).astype(np.float32)
    # In one copy: a GPU takes longer for each than for its numbers.
    steps, first, end, *weights = _to(images.device, numbers)[:, :, None, :, None]  # (R, 1, H, 1) each

    places = torch.arange(-1.0, W + 2, device=images.device)
    index = (places + steps).clamp_(0, W - 1).long().expand(-1, C, -1, -1)  # (R, C, H, W + 3)
    near = images.gather(3, index).float()
    out = near[..., :W] * weights[0]
    for k in (1, 2, 3):
        out.addcmul_(near[..., k : k + W], weights[k])
    columns = places[1:-2]
    return _where((columns >= first) & (columns < end), _to_uint8(out), fill)


def rotate(images: Images, degrees: HostLevels, cubic: HostFlags, fill: Tensor) -> Images:
    """Turn square images counter-clockwise about the middle. Letters: P = H·W pixels."""
    C, side = images.shape[1:3]
    angle = np.radians(degrees)
    cos, sin = np.cos(angle).round(15), np.sin(angle).round(15)
    *turn, is_cubic = _to(images.device, np.stack([cos, -sin, sin, cos, cubic])).unbind()
    matrix = torch.stack(turn, dim=1).view(-1, 2, 2)  # in double precision: it decides what is inside
    middles = torch.arange(side, dtype=torch.double, device=images.device) + (0.5 - side / 2)
    grid = torch.stack([middles.repeat(side), middles.repeat_interleave(side)])  # (2, P): x and y
    places = matrix @ grid + side / 2  # (R, 2, P)
    inside = ((places >= 0) & (places < side)).all(dim=1).view(-1, 1, side, side)

    places -= 0.5
    whole = places.floor()
    weights = torch.stack(_weights((places - whole).float(), is_cubic.float()[:, None, None]), dim=2)  # (R, 2, 4, P)
    neighbors = whole.long()[:, :, None] + torch.arange(-1, 3, device=images.device)[:, None]
    columns, rows = neighbors.clamp_(0, side - 1).unbind(1)  # (R, 4, P)
    across, down = weights[:, None].unbind(2)  # (R, 1, 4, P)
    pixels = images.flatten(2)  # (R, C, P)
    out = torch.zeros_like(pixels, dtype=torch.float)
    for k in range(4):
        index = (columns + side * rows[:, k : k + 1]).flatten(1)[:, None].expand(-1, C, -1)  # (R, C, 4·P)
        line = (pixels.gather(2, index).float().view(-1, C, 4, side * side) * across).sum(dim=2)
        out.addcmul_(line, down[:, :, k])
    return _where(inside, _to_uint8(out).view_as(images), fill)


def _weights(d: Any, cubic: Any) -> list[Any]:
    """Return what each of four neighbors counts at distance `d` from the second towards the third.

    Pillow's cubic kernel when it transforms has a = -1, where the one with which it resizes has -1/2.
    """
    a, b = cubic * d * (1 - d) ** 2, cubic * d**2 * (1 - d)
    return [-a, 1 - d + a, d + b, -b]


def _to_uint8(values: Tensor) -> Images:
    """Cut off the fraction, but keep a sum whole that rounding has brought just below a whole number. Overwrites."""
    return values.add_(2**-12).clamp_(0, 255).to(torch.uint8)


def _where(inside: Tensor, images: Images, fill: Tensor) -> Images:
    """Compute torch.where by bits, which on a CPU takes a tenth of the time; overwrites `images`."""
    return images.bitwise_xor_(fill).bitwise_and_(-inside.to(torch.uint8)).bitwise_xor_(fill)
