"""Photographs to batches on the device: decoded and distorted by workers, as vitlab does, or by the GPU.

On the device nvJPEG decodes, each photograph is cropped and resized there, and torchvision distorts it. The files are
in memory, so that this is the most that a GPU could give. A photograph has 500 × 375 px, a crop 224 px.
"""

import itertools
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms.v2 import RandAugment

from benchmarks.gpu.measurement import Figures, Measurement, Setting
from benchmarks.loaders import PLAIN, SIZE, make_photos
from vitlab.data import ImageFolder, PhotoAugment
from vitlab.data.augment import BOX_DRAWS, crop_box
from vitlab.data.counter_rng import Draws, Stream
from vitlab.evaluation.cost import wait_for

BATCH, COPIES, SECONDS = 256, 64, 10.0  # of the 32 photographs that are made
EPOCHS = 100_000  # more than anybody waits for
DISTORTED = PhotoAugment(erase_prob=0.0)


def measurements(setting: Setting) -> Iterator[Measurement]:
    cores = len(os.sched_getaffinity(0))
    for distorted in (False, True):
        suffix = ", RandAugment" if distorted else ""
        for workers in [0] if setting.dry else sorted({1, cores // 2, cores} - {0}):
            yield Measurement(f"{workers} workers{suffix}", partial(by_workers, workers, distorted, setting))
        yield Measurement(f"device{suffix}", partial(by_device, distorted, setting))


def by_workers(workers: int, distorted: bool, setting: Setting) -> Figures:
    batch = 8 if setting.dry else BATCH
    root = photos(setting)
    augment = DISTORTED if distorted else PLAIN
    data = ImageFolder(root=str(root), image_size=SIZE, batch_size=batch, num_workers=workers, augment=augment)

    # One loader over all epochs: each begins with the first worker, and these epochs have fewer batches than workers.
    views = data.training_passes(range(EPOCHS), batch, setting.device, drop_last=True)
    return rate((images for (images,), _ in views), workers, setting)


def by_device(distorted: bool, setting: Setting) -> Figures:
    files = [torch.from_numpy(np.fromfile(path, np.uint8)) for path in sorted(photos(setting).rglob("*.jpg"))]
    size, distort = 8 if setting.dry else BATCH, RandAugment()

    def batches() -> Iterator[Tensor]:
        for number in itertools.count():
            chosen = [files[(number * size + i) % len(files)] for i in range(size)]
            draws = Draws(0, number, torch.arange(size)).uniform(Stream.CROP, BOX_DRAWS).tolist()
            pictures = decode_jpeg(chosen, mode=ImageReadMode.RGB, device=setting.device)
            crops = [crop(picture, draw) for picture, draw in zip(pictures, draws, strict=True)]
            yield torch.stack([distort(each) for each in crops] if distorted else crops)

    return rate(batches(), 0, setting)


def crop(picture: Tensor, draw: list[float]) -> Tensor:
    """Return the random part of a picture (3, H, W) that the workers would cut out, resized on its device."""
    height, width = picture.shape[1:]
    top, left, tall, wide = crop_box(draw, height, width, PLAIN.crop_scale, PLAIN.crop_ratio)
    part = picture[None, :, top : top + tall, left : left + wide].float()
    resized = F.interpolate(part, (SIZE, SIZE), mode="bicubic", antialias=True, align_corners=False)[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def rate(batches: Iterator[Tensor], workers: int, setting: Setting) -> Figures:
    """Return the images/s after the first batches, in which processes start and libraries load."""
    for _ in range(1 if setting.dry else max(2, 2 * workers)):
        next(batches)
    wait_for(setting.device)
    begin, images = time.perf_counter(), 0
    while images == 0 or time.perf_counter() - begin < (0 if setting.dry else SECONDS):
        images += len(next(batches))
        wait_for(setting.device)
    return {"images_per_second": images / (time.perf_counter() - begin), "workers": workers}


def photos(setting: Setting) -> Path:
    return make_photos(setting.out / "photographs", 2 if setting.dry else COPIES)
