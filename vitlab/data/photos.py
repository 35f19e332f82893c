"""Photographs, read, cropped and augmented one by one in the workers: they are large and differ in size until then.

Every random number is a function of (seed, epoch, image): crop and flip take theirs as arguments; timm's RandAugment
draws from the global generators, which are seeded for the image and then restored.
"""

import math
import os
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int, Int64, UInt8, UInt64
from jsonargparse.typing import ClosedUnitInterval, PositiveFloat
from PIL import Image
from torch import Tensor, nn

from vitlab.data.augment import BOX_DRAWS, CROP_RATIO, CROP_SCALE, crop_box, normalize, resize
from vitlab.data.counter_rng import Draws, Stream, host_seed
from vitlab.data.dataset import Batch, ImageDataset, Images, PhotoSource, Subset, as_classes
from vitlab.data.decoding import Half, PictureMode, Pixels, Size, Window, as_text, height_and_width, to_array, upright
from vitlab.data.folder import split_of
from vitlab.data.sampler import Key
from vitlab.internals import rand_augment

if TYPE_CHECKING:
    from vitlab.data.multi_crop import MultiCrop

# timm ignores parts that it does not understand: `-minc1` would be plain RandAugment of another strength.
_RAND_AUGMENT = re.compile(r"rand(-(m|n|mmax)\d+|-inc[01]|-(mstd|p)\d+(\.\d+)?|-t(weights|3a|3aw))*")
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}

Interpolation = Literal["bicubic", "bilinear"]
Photo = UInt8[Tensor, "C h w"] | Float32[Tensor, "C h w"]


@dataclass(kw_only=True, unsafe_hash=True)
class PhotoAugment:
    """Augmentation of photographs, with the defaults of DeiT and Swin.

    Args:
        crop_scale: range of the fraction of the area that is resized to the image.
        crop_ratio: range of that part's width to height.
        interpolation: of resizing.
        antialias: resize crops with a low-pass filter where they shrink, as Pillow does; big_vision has none.
        eval_interpolation: of resizing in evaluation; `area` averages the pixels under each new one. Null: as above.
        flip_prob: probability of mirroring left to right.
        rand_augment: timm's description of a RandAugment (Cubuk et al., 2020); null: off.
        erase_prob: probability of filling a random box with noise.
        transforms: modules of `torchvision.transforms.v2` or of your own, applied in turn to each training image
            (C, H, W) after RandAugment; what they draw is a function of (seed, epoch, image).
    """

    crop_scale: tuple[ClosedUnitInterval, ClosedUnitInterval] = CROP_SCALE
    crop_ratio: tuple[PositiveFloat, PositiveFloat] = CROP_RATIO
    interpolation: Interpolation = "bicubic"
    antialias: bool = True
    eval_interpolation: Interpolation | Literal["area"] | None = None
    flip_prob: ClosedUnitInterval = 0.5
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"
    erase_prob: ClosedUnitInterval = 0.25
    transforms: tuple[nn.Module, ...] = ()

    def __post_init__(self) -> None:
        if self.rand_augment is not None and not _RAND_AUGMENT.fullmatch(self.rand_augment):
            known = "rand and any of -m9 (magnitude), -n2 (layers), -p0.5, -mstd0.5, -mmax10, -inc1, -t3a, or null"
            raise ValueError(f"augment.rand_augment is {self.rand_augment!r}; write {known}.")


class Framing(NamedTuple):
    """How evaluation crops a picture to `size` pixels: the arguments of `central_crop`."""

    size: Size
    crop_pct: float | None
    interpolation: Interpolation | Literal["area"]


def random_crop(image: Pixels, draw: Sequence[float], size: Size, settings: PhotoAugment) -> Photo:
    """Resize a random part of the image: torchvision's RandomResizedCrop. Takes BOX_DRAWS draws."""
    height, width, _ = image.shape
    box = crop_box(draw, height, width, settings.crop_scale, settings.crop_ratio)
    return resized_box(image, box, size, settings.interpolation, settings.antialias)


def half_will_do(draw: Sequence[float], size: Size, settings: PhotoAugment) -> Half:
    """Return a function of height and width: whether half the resolution is enough for the random crop of `draw`.

    It never is without a low-pass filter. Else it is if the crop still has twice the sides of the result: its PSNR is
    then 51 dB for the median photograph, 46 for the worst twentieth.
    """
    sides = height_and_width(size)

    def half(height: int, width: int) -> bool:
        box = crop_box(draw, height, width, settings.crop_scale, settings.crop_ratio)
        return settings.antialias and all(side >= 4 * own for side, own in zip(box[2:], sides, strict=True))

    return half


def resized_box(
    image: Pixels, box: Sequence[int], size: Size, interpolation: Interpolation, antialias: bool = True
) -> Photo:
    """Resize a part of the image, given by top, left, height and width."""
    top, left, height, width = box
    return _resize(image[top : top + height, left : left + width], *height_and_width(size), interpolation, antialias)


def central_crop(
    image: Pixels, size: Size, crop_pct: float | None, interpolation: Interpolation | Literal["area"]
) -> Photo:
    """Resize to cover size / crop_pct and crop the center (timm's crop_mode center); None: squash."""
    (rows, columns), shape = height_and_width(size), image.shape[:2]
    if crop_pct is None:
        return _resize(image, rows, columns, interpolation)
    if rows == columns:  # in proportion, truncated as in torchvision
        shorter = math.floor(rows / crop_pct)
        height, width = (int(shorter * side / min(shape)) for side in shape)
    else:  # timm's ResizeKeepRatio
        ratio = min(shape[0] / math.floor(rows / crop_pct), shape[1] / math.floor(columns / crop_pct))
        height, width = round(shape[0] / ratio), round(shape[1] / ratio)
    top, left = round((height - rows) / 2), round((width - columns) / 2)
    return _resize(image, height, width, interpolation)[:, top : top + rows, left : left + columns]


def _resize(
    image: Pixels, height: int, width: int, interpolation: Interpolation | Literal["area"], antialias: bool = True
) -> Photo:
    """Resize with a low-pass filter: Pillow's result in a quarter of its time; one value in 50 is off by one."""
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy())  # torch takes no read-only arrays
    pixels = pixels[None].permute(0, 3, 1, 2)  # (1, C, H, W), channels last in memory, and so is the result
    if interpolation == "area":
        rows, columns = _overlaps(image.shape[0], height), _overlaps(image.shape[1], width)
        photo = torch.einsum("yh,chw,xw->cyx", rows, pixels[0].float(), columns)
        return photo if pixels.is_floating_point() else photo.round().to(torch.uint8)
    photo = F.interpolate(pixels, (height, width), mode=interpolation, antialias=antialias, align_corners=False)[0]
    return photo.clamp(0, 255)


def _overlaps(old: int, new: int) -> Float32[Tensor, "new old"]:
    """Return the weight of each old pixel in each new one, as in TensorFlow's `area`."""
    edges = torch.arange(new + 1, dtype=torch.float64) * old / new
    pixels = torch.arange(old)
    inside = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return (inside.clamp(min=0) * new / old).float()


def apply(transform: Callable[[Image.Image], Image.Image], photo: Photo) -> Photo:
    """Apply a function of Pillow's images to a tensor of one or three channels; floats are rounded to 8 bits."""
    pixels = photo.permute(1, 2, 0).contiguous().numpy().round().astype(np.uint8)
    result = np.array(transform(Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)))
    return torch.from_numpy(result.reshape(*result.shape[:2], -1)).permute(2, 0, 1).to(photo.dtype)


def make_rand_augment(
    settings: PhotoAugment, size: int, mean: tuple[float, ...]
) -> Callable[[Image.Image], Image.Image] | None:
    """Return RandAugment as timm's training pipeline configures it, or None where it is off."""
    if settings.rand_augment is None:
        return None
    parameters: dict[str, Any] = {
        "translate_const": int(0.45 * size),
        "img_mean": tuple(min(255, round(255 * x)) for x in mean),
        "interpolation": _FILTERS[settings.interpolation],
    }
    transform: Callable[[Image.Image], Image.Image] = rand_augment(settings.rand_augment, parameters)[0]
    return transform


def transformed(photo: Photo, transforms: Sequence[nn.Module]) -> Photo:
    """Apply transforms in turn; each must keep shape and type."""
    for transform in transforms:
        result = transform(photo)
        if result.shape != photo.shape or result.dtype != photo.dtype:
            old, new = (f"{tuple(each.shape)} {each.dtype}" for each in (photo, result))
            name = type(transform).__name__
            raise ValueError(f"augment.transforms: {name} makes {new} of {old}; keep shape and type.")
        photo = result
    return photo


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global generators, from which dropout draws too, and restore them."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (timm draws from this one)
    torch.default_generator.manual_seed(seed)  # unlike torch.manual_seed, leaves the GPU's generator alone
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


@dataclass(frozen=True)
class Preprocessing:
    """A transform: `preprocessing(picture)` is the normalized image (C, H, W), float32.

    Args:
        framing: how a picture of any shape is resized and cropped.
        image_size: H = W, or H and W; where it is not the framing's size, the crop is resized once more, bicubic.
        mean, std: per channel, on the scale 0 … 1.
        picture_mode: Pillow's name of the channels.
        window: the values of a picture that become 0 and 255; None: it has 8 bits. An array has pixels in 0 … 255.
    """

    framing: Framing
    image_size: Size
    mean: tuple[float, ...]
    std: tuple[float, ...]
    picture_mode: PictureMode
    window: Window | None = None

    def __call__(self, picture: Image.Image | Pixels) -> Float32[Tensor, "C h w"]:
        how = self.picture_mode, self.window
        pixels = picture if isinstance(picture, np.ndarray) else to_array(upright(picture), *how)
        if pixels.shape[2] != len(self.mean):
            raise ValueError(f"a picture of {pixels.shape[2]} channels, and the model takes {len(self.mean)}")
        images = central_crop(pixels, *self.framing)[None]
        if self.image_size != self.framing.size:
            images = resize(images, self.image_size)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return normalize(images, mean, std)[0]

    def metadata(self) -> dict[str, Any]:
        """Return plain values that describe it in a checkpoint or an exported file."""
        crop = {"crop_size": self.framing.size, **{name: getattr(self.framing, name) for name in Framing._fields[1:]}}
        own = {name: getattr(self, name) for name in ("image_size", "mean", "std", "picture_mode", "window")}
        return {"in_chans": len(self.mean), **own, **crop}

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> Self:
        """Return what `metadata` described."""
        size, image_size = (x if isinstance(x, int) else tuple(x) for x in (values["crop_size"], values["image_size"]))
        framing = Framing(size, values["crop_pct"], values["interpolation"])
        statistics = tuple(values["mean"]), tuple(values["std"])
        window = values.get("window")  # which older files lack
        return cls(framing, image_size, *statistics, values["picture_mode"], window and tuple(window))


@dataclass(eq=False, repr=False)
class Photos(ImageDataset):
    """One split of photographs, which are read, cropped and augmented one by one."""

    source: PhotoSource
    subset: InitVar[Subset]
    image_size: Size
    channels: int = 3
    crop_pct: float | None = None
    augment: PhotoAugment = PhotoAugment()
    rand_augment: Callable[[Image.Image], Image.Image] | None = None
    multi_crop: "MultiCrop | None" = None
    seed: int = 0

    def __post_init__(self, subset: Subset) -> None:
        _, self.labels, self._contents, self._dhashes = subset
        # An array: workers would write reference counts into the elements of a list, and so copy its pages of memory.
        self._files = np.array([os.fsencode(name) for name in subset.names], dtype=np.bytes_)

    @property
    def names(self) -> list[str]:
        return [as_text(os.fsdecode(file)) for file in self._files]

    def take(self, indices: Int64[np.ndarray, "n"]) -> "Photos":
        names = [os.fsdecode(file) for file in self._files]
        return replace(self, subset=Subset(names, self.labels, self._contents, self._dhashes).take(indices))

    def contents(self) -> UInt64[np.ndarray, "{len(self)}"]:
        return self._contents

    def dhashes(self) -> UInt8[np.ndarray, "{len(self)} 32"]:
        return self._dhashes if self._dhashes.any() else super().dhashes()

    def blocks(self) -> Int[np.ndarray, "{len(self)}"] | None:
        return self.source.blocks(self.names)

    def _identity(self) -> list[bytes]:
        """Return the names without the folder of the split, and the hashes of the files."""
        parts = [name.partition(os.sep) for name in self.names]
        names = [rest if split_of(head) else head + mark + rest for head, mark, rest in parts]
        return ["\0".join(names).encode(), self._contents.tobytes()]

    def __getitems__(self, keys: list[Key]) -> Batch:
        epoch, first = keys[0].epoch, keys[0].first
        indices = torch.tensor([key.image for key in keys])
        labels = torch.from_numpy(as_classes(self.labels[indices.numpy() % len(self)]))
        if epoch is None:
            images = _stack([self._central(key.image) for key in keys])
        elif self.multi_crop is not None:
            draws = Draws(self.seed, epoch, indices)
            drawn = zip(keys, self.multi_crop.draw(draws).split(1, dim=1), strict=True)
            views = [self.multi_crop.views_of_photo(self._open(key.image), draw) for key, draw in drawn]
            return Batch([_stack(kind) for kind in zip(*views, strict=True)], labels, indices, epoch, first)
        else:
            draws = Draws(self.seed, epoch, indices)
            boxes = draws.uniform(Stream.CROP, BOX_DRAWS).tolist()
            flips = (draws.uniform(Stream.FLIP, 1)[:, 0] < self.augment.flip_prob).tolist()
            each = zip(keys, boxes, flips, strict=True)
            images = _stack([self._augmented(epoch, key.image, box, flip) for key, box, flip in each])
        host_indices = indices.numpy().copy()  # sending a tensor from a worker moves its memory
        return Batch(images, labels, indices, epoch, first, host_indices)

    def raw(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        """Return one image as evaluation sees it: resized and cropped, not normalized."""
        return self._central(index).permute(1, 2, 0).numpy().round().astype(np.uint8)

    def _open(self, index: int, half: Half | None = None) -> Pixels:
        """Read one photograph; one that cannot be read stops the run."""
        name = os.fsdecode(self._files[index % len(self)])
        pixels = self.source.read(name, half)
        if pixels.shape[2] != self.channels or pixels.dtype not in (np.uint8, np.float32):
            wrong = f"{as_text(name)} in {self.source.location} has {pixels.shape[2]} channels of {pixels.dtype}"
            remedy = "Give mean and std one value per channel, pixels as uint8 or `windowed`."
            raise ValueError(f"{wrong}, but mean has {self.channels} values.\n{remedy}")
        return pixels

    def _central(self, index: int) -> Photo:
        interpolation = self.augment.eval_interpolation or self.augment.interpolation
        return central_crop(self._open(index), self.image_size, self.crop_pct, interpolation)

    def _augmented(self, epoch: int, index: int, box: list[float], flip: bool) -> Photo:
        image = self._open(index, half_will_do(box, self.image_size, self.augment))
        photo = random_crop(image, box, self.image_size, self.augment)
        photo = photo.flip(-1) if flip else photo
        if self.rand_augment is None and not self.augment.transforms:
            return photo
        with seeded(host_seed(self.seed, epoch, Stream.PHOTO, index)):
            if self.rand_augment is not None:
                photo = apply(self.rand_augment, photo)
            return transformed(photo, self.augment.transforms)


def _stack(photos: Sequence[Photo]) -> Images:
    """Stack photographs, channels last in memory; `normalize` changes this to the models' order."""
    return torch.stack([photo.permute(1, 2, 0) for photo in photos]).permute(0, 3, 1, 2)
