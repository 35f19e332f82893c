"""Images to batches on one core, against what recipes usually take; the methods take turns on the same images.

    python -m benchmarks.loaders photographs --root photos
    python -m benchmarks.loaders small

photographs: decode, random resized crop, mirror, to 224 px, against timm's training transform on Pillow without
RandAugment. It normalizes; vitlab returns uint8, which the device normalizes, as it does with timm's prefetcher.
Both are measured both ways. The PSNR is against Pillow's bicubic resize of the same part of the whole decoded file.

small: CIFAR's crop, mirror, erase and normalize, from uint8 arrays to the batch: by a data module, and by torchvision's
transforms of Pillow's pictures with timm's erasing.
"""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from math import ceil, floor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms as T

from benchmarks.against_timm import make_step
from benchmarks.measuring import (
    CPU,
    Step,
    alternate,
    machine,
    markdown,
    one_thread,
    parser_of,
    quartiles,
    ratios,
    save,
)
from vitlab.data import CIFAR10, BatchAugment
from vitlab.data.augment import BOX_DRAWS, crop_box, normalize
from vitlab.data.counter_rng import Draws, Stream
from vitlab.data.dataset import PhotoSource, Subset
from vitlab.data.decoding import decode, read_regular
from vitlab.data.folder import Folder
from vitlab.data.photos import PhotoAugment, Photos, half_will_do
from vitlab.data.sampler import Key
from vitlab.models import VisionTransformer

SIZE = 224  # pixels of a crop
PHOTOS = 32  # per turn
MADE = (500, 375)  # width and height of the photographs made here, about ImageNet's
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
PLAIN = PhotoAugment(rand_augment=None, erase_prob=0.0)
NOT_MIRRORED = PhotoAugment(rand_augment=None, erase_prob=0.0, flip_prob=0.0)

BATCH, TURN = 128, 16  # small images per batch, and batches in a row: a loader's rate is a sustained one
SHIFT, FLIP_PROB, ERASE_PROB = 4, 0.5, 0.25


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("loaders", __doc__, "photographs.md or small.md")
    parser.add_argument("images", choices=("photographs", "small"))
    parser.add_argument("--root", type=Path, help="photographs, one folder per class [synthetic ones of 500 × 375 px]")
    parser.add_argument("--seconds", type=float, default=60.0, help="of all methods together [60]")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder, one_thread():
        if options.images == "photographs":
            rows = photographs(options.root or make_photos(Path(folder) / "made"), options.seconds)
            header = f"{PHOTOS} photographs a turn. Ratios above 1 are faster than timm."
        else:
            rows = small_images(Path(folder), options.seconds)
            header = (
                f"{TURN} batches of {BATCH} images of 32 px a turn. Ratios above 1 are faster than single pictures; "
                "shares are of a ViT-Ti/4's forward and backward pass."
            )
        table = markdown(f"{machine(CPU, 'torchvision', 'timm', 'pillow')} {header}", rows)
    save(options.out / f"{options.images}.md", table)
    print(table, end="")


# ---- photographs


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


# ---- small images


def small_images(folder: Path, seconds: float) -> list[dict[str, str]]:
    """Return a row for each method; `folder` takes a data set of noise."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (10 * BATCH, 10))
    labels = np.arange(len(train)) % 10
    np.savez(folder / "cifar10.npz", x_train=train, y_train=labels, x_test=test, y_test=labels[:10])
    augment = BatchAugment(shift=SHIFT, flip_prob=FLIP_PROB, erase_prob=ERASE_PROB)
    data = CIFAR10(root=str(folder), batch_size=BATCH, augment=augment)
    batches = {"vitlab": in_batches(data), "torchvision": one_by_one(train, data)}

    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=12, num_heads=3, num_classes=10)
    step = make_step(model, torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,)), "training", "float32")
    once: dict[str, Step] = {method: each.__next__ for method, each in batches.items()} | {"model": step}
    turns: dict[str, Step] = {
        method: lambda each=each: [next(each) for _ in range(TURN)]  # type: ignore[misc]
        for method, each in batches.items()
    }
    single, times = timed(once, seconds / 2), timed(turns, seconds / 2)
    rows = []
    for method in batches:
        q1, middle, q3 = ratios(times["torchvision"], times[method])
        r1, rate, r3 = quartiles(TURN * BATCH / took for took in times[method])
        rows.append(
            {
                "method": method,
                "images/s [quartiles]": f"{rate:,.0f} [{r1:,.0f}, {r3:,.0f}]",
                "ratio [quartiles]": f"**{middle:.2f}** [{q1:.2f}, {q3:.2f}]",
                "of a step": f"{ratios(single[method], single['model']).middle:.2%}",
                "turns": str(len(times[method])),
            }
        )
    return rows


def timed(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Alternate steps for about the given time, twice at least."""
    once = sum(itertools.chain(*alternate(steps, 1, CPU).values()))
    return alternate(steps, max(2, int(seconds / once) - 5), CPU)  # less those that warm up, twice


def in_batches(data: CIFAR10) -> Iterator[Tensor]:
    dataset = data.dataset("train")
    rng = np.random.default_rng(0)
    for epoch in itertools.count():
        keys = map(Key, itertools.repeat(epoch), rng.permutation(len(dataset))[:BATCH].tolist())
        (images,), _ = data.on_after_batch_transfer(dataset.__getitems__(list(keys)), 0)
        yield images


def one_by_one(arrays: np.ndarray, data: CIFAR10) -> Iterator[Tensor]:
    erasing = RandomErasing(ERASE_PROB, mode="pixel", device="cpu")
    crop, flip = T.RandomCrop(32, padding=SHIFT), T.RandomHorizontalFlip(FLIP_PROB)
    transform: Callable[[Image.Image], Tensor] = T.Compose(
        [crop, flip, T.ToTensor(), T.Normalize(data.mean, data.std), erasing]
    )
    rng = np.random.default_rng(0)
    while True:
        some = arrays[rng.permutation(len(arrays))[:BATCH]]
        yield torch.stack([transform(Image.fromarray(image)) for image in some])


if __name__ == "__main__":
    main()
