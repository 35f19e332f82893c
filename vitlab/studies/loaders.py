"""Photographs to batches, ours beside timm's: decode, random resized crop, mirror, to 224 pixels, on one core.

The methods take `turns` on the same photographs.

timm's is its training transform on Pillow without RandAugment. It normalizes; ours hands over uint8, which the device
normalizes, as timm's does with its prefetcher: both are measured both ways.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import final

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from vitlab.data.augment import BOX_DRAWS, crop_box, normalize
from vitlab.data.checking import Check
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.decoding import Half, Pixels, open_rgb
from vitlab.data.folder import Folder
from vitlab.data.image_folder import Photos
from vitlab.data.packed import FILE, Packed, Row, write_packed
from vitlab.data.photos import PhotoAugment, half_will_do
from vitlab.data.sampler import Key
from vitlab.data.source import PhotoSource
from vitlab.evaluation.cost import device_name
from vitlab.evaluation.interleaved_timing import alternate, one_thread, ratios

SIZE, SHORT_SIDE = 224, 256  # pixels of a crop, and of a prepared photograph's shorter side
PHOTOS = 32  # of a turn
MADE = (500, 375)  # width and height, about ImageNet's
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

_PLAIN = PhotoAugment(rand_augment=None, erase_prob=0.0)
_UNMIRRORED = PhotoAugment(rand_augment=None, erase_prob=0.0, flip_prob=0.0)
_REFERENCE = "timm"


@final
class ByPillow(PhotoSource):
    """The files of a folder, each decoded whole by Pillow."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.class_names, self.splits = folder, folder.class_names, folder.splits

    def check(self) -> Check:
        """Return what the folder returns."""
        return self.folder.check()

    def read(self, name: str, half: Half | None = None) -> Pixels:
        """Decode one file."""
        with Image.open(self.folder.root / name) as image:
            return np.array(image.convert("RGB"))


@dataclass(frozen=True)
class Loading:
    """One method. Ratios are its images a second over timm's; the PSNR is against Pillow's bicubic of the same part."""

    method: str
    images_per_second: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    psnr: float | None  # dB, the median photograph's; None: it is Pillow's bicubic itself
    psnr_low: float | None  # that of the twentieth part that is worst
    bytes_per_photo: float
    repetitions: int


def measure_photos(root: Path | None, seconds: float) -> list[Loading]:
    """Measure all methods on photographs of a folder, or on made ones, for about so many seconds together."""
    with TemporaryDirectory() as place, one_thread():
        root = make_photos(Path(place) / "made") if root is None else root
        sources, names = _sources(root, Path(place))
        steps = _steps(root, sources, names)
        for step in steps.values():
            step()  # imports, and files into the system's memory
        repetitions = max(2, int(seconds / sum(_seconds(step) for step in steps.values())))
        times = alternate(steps, repetitions, torch.device("cpu"))
        qualities = {method: _psnr(root, source, names) for method, source in sources.items()}
        sizes = {method: _bytes(root, source, names) for method, source in sources.items()}
    rows = []
    for method in steps:
        q1, middle, q3 = ratios(times[_REFERENCE], times[method])
        source = method if method in sources else "vitlab"
        psnr, low = (None, None) if method.startswith("timm") else qualities[source]
        rate = len(names) / statistics.median(times[method])
        rows.append(Loading(method, rate, middle, q1, q3, psnr, low, sizes[source], repetitions))
    return rows


def make_photos(root: Path) -> Path:
    """Write smooth pictures with texture and noise, as JPEGs of two classes."""
    rng = np.random.default_rng(0)
    for number in range(PHOTOS):
        smooth, texture, noise = (
            Image.fromarray(rng.integers(0, 256, (MADE[1] // k, MADE[0] // k, 3), dtype=np.uint8)).resize(MADE)
            for k in (50, 6, 1)
        )
        picture = Image.blend(Image.blend(smooth, texture, 0.2), noise, 0.03)
        path = root / ("a", "b")[number % 2] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
    return root


def _sources(root: Path, place: Path) -> tuple[dict[str, PhotoSource], list[str]]:
    """Return the folder and what is prepared of it, by method, and the photographs to measure: spread over all."""
    folder = Folder(root)
    names = folder.splits["train"][0]
    some = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, PHOTOS).astype(int))]
    sources: dict[str, PhotoSource] = {"vitlab, decoded by Pillow": ByPillow(folder), "vitlab": folder}
    for method, pixels in (("prepared, JPEG", False), ("prepared, RGB", True)):
        rows = [Row.of(root, name, "train", 0, SHORT_SIDE, pixels) for name in some]
        whole = [row for row in rows if row.broken is None]
        write_packed(place / method, folder.class_names, [whole], pixels)
        sources[method] = packed = Packed(place / method)
    return sources, packed.splits["train"][0]


def _steps(root: Path, sources: dict[str, PhotoSource], names: list[str]) -> dict[str, Callable[[], object]]:
    """Return each method's turn: the next epoch of the photographs."""
    own = {method: _batches(source, names, _PLAIN) for method, source in sources.items()}
    normalized, in_uint8 = (_timms(root, names, prefetch) for prefetch in (False, True))
    return {
        _REFERENCE: lambda: next(normalized),
        "timm, uint8": lambda: next(in_uint8),
        "vitlab, decoded by Pillow": lambda: next(own["vitlab, decoded by Pillow"]),
        "vitlab": lambda: next(own["vitlab"]),
        "vitlab, normalized here": lambda: normalize(next(own["vitlab"]), MEAN, STD),
        "prepared, JPEG": lambda: next(own["prepared, JPEG"]),
        "prepared, RGB": lambda: next(own["prepared, RGB"]),
    }


def _batches(source: PhotoSource, names: list[str], augment: PhotoAugment) -> Iterator[Tensor]:
    """Yield all photographs as one batch (B, 3, S, S) of uint8, in one epoch after another."""
    photos = Photos(source, names, np.zeros(len(names), np.int64), SIZE, None, augment, None, (0.0,) * 3, seed=0)
    for epoch in itertools.count():
        images = photos.__getitems__([Key(epoch, index) for index in range(len(names))]).images
        assert isinstance(images, Tensor)
        yield images


def _timms(root: Path, names: list[str], use_prefetcher: bool) -> Iterator[Tensor]:
    """Yield what timm's loader makes of the photographs: normalized floats, or uint8 where a prefetcher goes on."""
    from timm.data import create_transform

    transform = create_transform(
        SIZE, is_training=True, interpolation="bicubic", color_jitter=0.0, use_prefetcher=use_prefetcher
    )
    while True:
        views = []
        for name in names:
            with Image.open(root / name) as image:
                views.append(torch.as_tensor(transform(image.convert("RGB"))))
        yield torch.stack(views)


def _draws(epoch: int, photos: int) -> list[list[float]]:
    return Draws(0, epoch, torch.arange(photos)).uniform(Stream.CROP, BOX_DRAWS).tolist()


def _psnr(root: Path, source: PhotoSource, names: list[str]) -> tuple[float, float]:
    """Return the median and the worst twentieth's PSNR against Pillow's bicubic of that part of the whole file."""
    crops = next(_batches(source, names, _UNMIRRORED)).permute(0, 2, 3, 1).numpy()
    found = []
    for name, draw, crop in zip(names, _draws(0, len(names)), crops, strict=True):
        height, width, _ = source.read(name, half_will_do(draw, SIZE, _UNMIRRORED)).shape
        box = crop_box(draw, height, width, _UNMIRRORED.crop_scale, _UNMIRRORED.crop_ratio)
        expected = _bicubic(open_rgb(root / name), box, height, width)
        error = np.square(crop - expected.astype(float)).mean()
        found.append(10 * np.log10(255**2 / max(error, 1 / crop.size)))
    return float(np.median(found)), float(np.quantile(found, 0.05))


def _bicubic(picture: Image.Image, box: Sequence[int], height: int, width: int) -> np.ndarray:
    """Return Pillow's resize of a part, given on a grid of `height` x `width`; nothing outside of it is seen."""
    across, down = picture.width / width, picture.height / height
    top, left, tall, wide = box
    edges = (left * across, top * down, (left + wide) * across, (top + tall) * down)
    outer = (floor(edges[0]), floor(edges[1]), min(ceil(edges[2]), picture.width), min(ceil(edges[3]), picture.height))
    part = picture.crop(outer)
    right, bottom = min(edges[2] - outer[0], part.width), min(edges[3] - outer[1], part.height)  # but for rounding
    inner = (edges[0] - outer[0], edges[1] - outer[1], right, bottom)
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=inner))


def _bytes(root: Path, source: PhotoSource, names: list[str]) -> float:
    if isinstance(source, Packed):
        return (source.root / FILE).stat().st_size / len(names)
    return statistics.mean((root / name).stat().st_size for name in names)


def _seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def markdown(rows: Sequence[Loading]) -> str:
    """Return the table, with the machine and the versions in its header."""
    import timm

    lines = [
        f"One core of {device_name(torch.device('cpu'))}, torch {torch.__version__}, timm {timm.__version__}, Pillow "
        f"{PIL.__version__}: decode, random resized crop, mirror, to {SIZE} px; {rows[0].repetitions} turns of "
        f"{PHOTOS} photographs. Ratios are over timm's images/s: above 1 is faster.",
        "",
        "| method | images/s | ratio [quartiles] | kB a photograph | PSNR, dB (worst twentieth) |",
        "|---|---|---|---|---|",
    ]
    for r in rows:
        psnr = "Pillow's" if r.psnr is None else f"{r.psnr:.1f} ({r.psnr_low:.1f})"
        lines.append(
            f"| {r.method} | {r.images_per_second:,.0f} | **{r.ratio:.2f}** [{r.ratio_q1:.2f}, {r.ratio_q3:.2f}] | "
            f"{r.bytes_per_photo / 1e3:.0f} | {psnr} |"
        )
    return "\n".join(lines) + "\n"
