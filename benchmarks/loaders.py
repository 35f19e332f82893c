"""Photographs to batches on one core, against timm's training transform on Pillow, both on the same images in turn.

    python -m benchmarks.loaders --root photos

Decode, random resized crop, mirror, to 224 px, without RandAugment. timm's way normalizes; vitlab returns uint8, which
the device normalizes, as it does with timm's prefetcher. Both are measured both ways. The PSNR is against Pillow's
bicubic resize of the same part of the whole decoded file.
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from math import ceil, floor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from benchmarks.measuring import (
    CPU,
    Step,
    alternate,
    machine,
    markdown,
    one_thread,
    parser_of,
    ratios,
    save,
)
from vitlab.data.augment import BOX_DRAWS, crop_box, normalize
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.dataset import PhotoSource, Subset
from vitlab.data.decoding import decode, read_regular
from vitlab.data.folder import Folder
from vitlab.data.photos import PhotoAugment, Photos, half_will_do
from vitlab.data.sampler import Key

SIZE = 224  # pixels of a crop
PHOTOS = 32  # per turn
MADE = (500, 375)  # width and height of the photographs made here, about ImageNet's
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PLAIN = PhotoAugment(rand_augment=None, erase_prob=0.0)
NOT_MIRRORED = PhotoAugment(rand_augment=None, erase_prob=0.0, flip_prob=0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("loaders", __doc__, "photographs.md")
    parser.add_argument("--root", type=Path, help="photographs, one folder per class [synthetic ones of 500 × 375 px]")
    parser.add_argument("--seconds", type=float, default=60.0, help="of all methods together [60]")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder, one_thread():
        rows = photographs(options.root or make_photos(Path(folder) / "made"), options.seconds)
        header = f"{PHOTOS} photographs a turn. Ratios above 1 are faster than timm."
        table = markdown(f"{machine(CPU, 'torchvision', 'timm', 'pillow')} {header}", rows)
    save(options.out / "photographs.md", table)
    print(table, end="")


def photographs(root: Path, seconds: float) -> list[dict[str, str]]:
    """Return a row for each method, of which a turn is the next epoch of the photographs."""
    source = Folder(root)
    names = chosen(source)
    batches = vitlab_batches(source, names, PLAIN)
    normalized, as_uint8 = (timm_batches(root, names, prefetcher) for prefetcher in (False, True))
    turns: dict[str, Step] = {
        "timm": normalized.__next__,
        "timm, uint8": as_uint8.__next__,
        "vitlab, normalized here": lambda: normalize(next(batches), MEAN, STD),
        "vitlab": batches.__next__,
    }
    times = timed(turns, seconds)
    decibels = psnr(root, source, names)
    size = sum((root / name).stat().st_size for name in names) / len(names)
    rows = []
    for method in turns:
        q1, middle, q3 = ratios(times["timm"], times[method])
        rows.append(
            {
                "method": method,
                "images/s": f"{len(names) / statistics.median(times[method]):,.0f}",
                "ratio [quartiles]": f"**{middle:.2f}** [{q1:.2f}, {q3:.2f}]",
                "kB per photograph": f"{size / 1e3:.0f}",
                "PSNR, dB (worst 5 %)": "Pillow's" if "timm" in method else "{:.1f} ({:.1f})".format(*decibels),
            }
        )
    return rows


def make_photos(root: Path, copies: int = 1) -> Path:
    """Write smooth pictures with texture and noise, as JPEGs of two classes, unless they are there."""
    if root.is_dir():
        return root
    new, rng = root.with_name(f"{root.name}.new"), np.random.default_rng(0)
    for number in range(PHOTOS):
        smooth, texture, noise = (
            Image.fromarray(rng.integers(0, 256, (MADE[1] // k, MADE[0] // k, 3), dtype=np.uint8)).resize(MADE)
            for k in (50, 6, 1)
        )
        picture = Image.blend(Image.blend(smooth, texture, 0.2), noise, 0.03)
        path = new / ("a", "b")[number % 2] / f"{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=90)
        for copy in range(1, copies):
            path.with_stem(f"{path.stem}_{copy}").write_bytes(path.read_bytes())
    return new.rename(root)  # a killed call leaves none that are half written


def chosen(source: Folder) -> list[str]:
    """Return the names of the photographs to measure, spread evenly over the folder, without broken ones."""
    names = source.splits["train"][0]
    some = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, PHOTOS).astype(int))]
    broken = source.check().broken
    return [name for name in some if name not in broken]


def vitlab_batches(source: PhotoSource, names: list[str], augment: PhotoAugment) -> Iterator[Tensor]:
    """Yield all photographs as one batch (B, 3, S, S) of uint8, epoch after epoch."""
    hashes = np.zeros(len(names), np.uint64), np.zeros((len(names), 32), np.uint8)
    subset = Subset(names, np.zeros(len(names), np.int64), *hashes)
    photos = Photos(source=source, subset=subset, image_size=SIZE, augment=augment)
    for epoch in itertools.count():
        images = photos.__getitems__([Key(epoch, index) for index in range(len(names))]).images
        assert isinstance(images, Tensor)
        yield images


def timm_batches(root: Path, names: list[str], use_prefetcher: bool) -> Iterator[Tensor]:
    """Yield what timm's loader makes of the photographs: normalized floats, or uint8 for its prefetcher."""
    transform = create_transform(
        SIZE, is_training=True, interpolation="bicubic", color_jitter=0.0, use_prefetcher=use_prefetcher
    )
    while True:
        views = []
        for name in names:
            with Image.open(root / name) as image:
                views.append(torch.as_tensor(transform(image.convert("RGB"))))
        yield torch.stack(views)


def psnr(root: Path, source: PhotoSource, names: list[str]) -> tuple[float, float]:
    """Return the PSNR of the median photograph and of the worst twentieth."""
    crops = next(vitlab_batches(source, names, NOT_MIRRORED)).permute(0, 2, 3, 1).numpy()
    draws = Draws(0, 0, torch.arange(len(names))).uniform(Stream.CROP, BOX_DRAWS).tolist()
    decibels = []
    for name, draw, crop in zip(names, draws, crops, strict=True):
        height, width, _ = source.read(name, half_will_do(draw, SIZE, NOT_MIRRORED)).shape
        box = crop_box(draw, height, width, NOT_MIRRORED.crop_scale, NOT_MIRRORED.crop_ratio)
        expected = bicubic(Image.fromarray(decode(read_regular(root / name))), box, height, width)
        error = np.square(crop - expected.astype(float)).mean()
        decibels.append(10 * np.log10(255**2 / max(error, 1 / crop.size)))
    return float(np.median(decibels)), float(np.quantile(decibels, 0.05))


def bicubic(picture: Image.Image, box: Sequence[int], height: int, width: int) -> np.ndarray:
    """Return Pillow's resize of a part, given on a grid of `height` × `width`; pixels outside it have no influence."""
    across, down = picture.width / width, picture.height / height
    top, left, tall, wide = box
    edges = (left * across, top * down, (left + wide) * across, (top + tall) * down)
    outer = (floor(edges[0]), floor(edges[1]), min(ceil(edges[2]), picture.width), min(ceil(edges[3]), picture.height))
    part = picture.crop(outer)
    right, bottom = min(edges[2] - outer[0], part.width), min(edges[3] - outer[1], part.height)  # but for rounding
    inner = (edges[0] - outer[0], edges[1] - outer[1], right, bottom)
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=inner))


def timed(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Alternate steps for about the given time, twice at least."""
    once = sum(itertools.chain(*alternate(steps, 1, CPU).values()))
    return alternate(steps, max(2, int(seconds / once) - 5), CPU)  # less those that warm up, twice


if __name__ == "__main__":
    main()
