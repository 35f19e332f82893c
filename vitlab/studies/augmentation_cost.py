"""Distortions of batches beside those of single pictures, on one core: images a second, and the share of a step.

From CIFAR's arrays to the normalized batch, by a data module, and by torchvision's transforms of Pillow's pictures with
timm's erasing, as recipes for CIFAR usually write them.

The methods take `turns`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from vitlab.data import CIFAR10, BatchAugment
from vitlab.data.sampler import Key
from vitlab.evaluation.cost import device_name
from vitlab.evaluation.interleaved_timing import Step, alternate, one_thread, quartiles, ratios
from vitlab.models import VisionTransformer
from vitlab.studies.peers import make_step

BATCH, TURN = 128, 16  # images of a batch, and batches in a row: a loader's rate is a sustained one
_CPU = torch.device("cpu")
_SMALL = {
    "crop, flip, erase": BatchAugment(shift=4, flip_prob=0.5, erase_prob=0.25),
}


@dataclass(frozen=True)
class Augmentation:
    """One pipeline by one method. Ratios are its images a second over those of the single pictures."""

    pipeline: str
    method: str
    images_per_second: float
    images_per_second_q1: float
    images_per_second_q3: float
    ratio: float
    ratio_q1: float
    ratio_q3: float
    share_of_step: float  # time, of ViT-Ti/4's forward and backward pass of the batch
    repetitions: int


def measure_small_images(seconds: float) -> list[Augmentation]:
    """Measure CIFAR's pipelines in batches of 128 for about so many seconds."""
    rows = []
    with TemporaryDirectory() as folder, one_thread():
        arrays = make_images(Path(folder))
        model_step = _model_step()
        for pipeline, augment in _SMALL.items():
            data = CIFAR10(root=folder, batch_size=BATCH, augment=augment)
            steps: dict[str, Iterator[Tensor]] = {
                "vitlab": _batches(data),
                "torchvision": _singles(arrays, data, augment),
            }
            once: dict[str, Step] = {method: step.__next__ for method, step in steps.items()}
            shares = _shares(once, model_step, seconds / 4)
            turns: dict[str, Step] = {method: partial(_advance, step) for method, step in steps.items()}
            rows += _rows(pipeline, turns, "torchvision", TURN * BATCH, seconds / 4, shares)
    return rows


def make_images(folder: Path) -> np.ndarray:
    """Write a `cifar10.npz` of noise, and return the images to train on."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (10 * BATCH, 10))
    labels = np.arange(len(train)) % 10
    np.savez(folder / CIFAR10.file_name, x_train=train, y_train=labels, x_test=test, y_test=labels[:10])
    return train


def _batches(data: CIFAR10) -> Iterator[Tensor]:
    """Yield what a data module makes of random images, on and on."""
    dataset = data.dataset("train")
    rng = np.random.default_rng(0)
    for epoch in itertools.count():
        keys = map(Key, itertools.repeat(epoch), rng.permutation(len(dataset))[:BATCH].tolist())
        (images,), _ = data.on_after_batch_transfer(dataset.__getitems__(list(keys)), 0)
        yield images


def _singles(arrays: np.ndarray, data: CIFAR10, augment: BatchAugment) -> Iterator[Tensor]:
    """Yield what torchvision and timm make of random images."""
    from timm.data.random_erasing import RandomErasing
    from torchvision import transforms as T  # type: ignore[import-untyped]

    distortions: list[Callable] = [T.RandomCrop(32, padding=augment.shift), T.RandomHorizontalFlip(augment.flip_prob)]
    erasing = RandomErasing(augment.erase_prob, mode="pixel", device="cpu")
    transform = T.Compose([*distortions, T.ToTensor(), T.Normalize(data.mean, data.std), erasing])
    rng = np.random.default_rng(0)
    while True:
        chosen = arrays[rng.permutation(len(arrays))[:BATCH]]
        yield torch.stack([transform(Image.fromarray(image)) for image in chosen])


def _advance(batches: Iterator[Tensor]) -> None:
    for _ in range(TURN):
        next(batches)


def _model_step() -> Step:
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=12, num_heads=3, num_classes=10)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    return make_step(model, images, labels, "training", "float32")


def _shares(steps: dict[str, Step], model_step: Step, seconds: float) -> dict[str, float]:
    """Return how long each takes for one batch, over the model's step."""
    times = alternate({**steps, "model": model_step}, _repetitions([*steps.values(), model_step], seconds), _CPU)
    return {method: ratios(times[method], times["model"]).middle for method in steps}


def _rows(
    pipeline: str, steps: dict[str, Step], reference: str, images: int, seconds: float, shares: dict[str, float]
) -> list[Augmentation]:
    repetitions = _repetitions(list(steps.values()), seconds)
    times = alternate(steps, repetitions, _CPU)
    rows = []
    for method in steps:
        q1, middle, q3 = ratios(times[reference], times[method])
        r1, rate, r3 = quartiles(images / own for own in times[method])
        rows.append(Augmentation(pipeline, method, rate, r1, r3, middle, q1, q3, shares[method], repetitions))
    return rows


def _repetitions(steps: Sequence[Step], seconds: float) -> int:
    once = alternate({str(number): step for number, step in enumerate(steps)}, 1, _CPU)
    return max(2, int(seconds / sum(itertools.chain(*once.values()))) - 5)  # less those that warm up, twice


def markdown(rows: Sequence[Augmentation]) -> str:
    """Return the table, with the machine and the versions in its header."""
    import timm
    import torchvision

    lines = [
        f"One core of {device_name(_CPU)}, torch {torch.__version__}, torchvision {torchvision.__version__}, timm "
        f"{timm.__version__}, Pillow {PIL.__version__}. Small images: from arrays to normalized batches, {TURN} of "
        f"{BATCH} images of 32 px a turn. Ratios are over the images/s of single pictures: "
        "above 1 is faster. Shares are of a ViT-Ti/4's forward and backward pass on the same core.",
        "",
        "| pipeline | method | images/s [quartiles] | ratio [quartiles] | of a step | turns |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        rate = f"{r.images_per_second:,.0f} [{r.images_per_second_q1:,.0f}, {r.images_per_second_q3:,.0f}]"
        ratio = f"**{r.ratio:.2f}** [{r.ratio_q1:.2f}, {r.ratio_q3:.2f}]"
        lines.append(f"| {r.pipeline} | {r.method} | {rate} | {ratio} | {r.share_of_step:.2%} | {r.repetitions} |")
    return "\n".join(lines) + "\n"
