"""CIFAR's augmentation in batches against torchvision's of single pictures, on one core.

    python -m benchmarks.augmentation

Crop, mirror, erase and normalize, from uint8 arrays to the batch: by a data module, and by torchvision's transforms of
Pillow's pictures with timm's erasing, as recipes for CIFAR are usually written. The methods take turns.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms as T

from benchmarks.against_timm import make_step
from benchmarks.measuring import OUT, Step, alternate, machine, markdown, one_thread, quartiles, ratios, save
from vitlab.data import CIFAR10, BatchAugment
from vitlab.data.sampler import Key
from vitlab.models import VisionTransformer

BATCH, TURN = 128, 16  # images per batch, and batches in a row: a loader's rate is a sustained one
SHIFT, FLIP_PROB, ERASE_PROB = 4, 0.5, 0.25
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure for about the given time."""
    parser = argparse.ArgumentParser("python -m benchmarks.augmentation", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of all methods together [60]")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder of augmentation.md [{OUT}]")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder, one_thread():
        rows = measure(Path(folder), options.seconds)
        header = (
            f"{machine(CPU, 'torchvision', 'timm', 'pillow')} {TURN} batches of {BATCH} images of 32 px a turn. Ratios "
            "above 1 are faster than single pictures; shares are of a ViT-Ti/4's forward and backward pass."
        )
    save(options.out / "augmentation.md", markdown(header, rows))
    print(markdown(header, rows), end="")


def measure(folder: Path, seconds: float) -> list[dict[str, str]]:
    """Return a row for each method; `folder` takes a data set of noise."""
    arrays = make_images(folder)
    augment = BatchAugment(shift=SHIFT, flip_prob=FLIP_PROB, erase_prob=ERASE_PROB)
    data = CIFAR10(root=str(folder), batch_size=BATCH, augment=augment)
    batches = {"vitlab": in_batches(data), "torchvision": one_by_one(arrays, data)}
    once: dict[str, Step] = {method: each.__next__ for method, each in batches.items()} | {"model": model_step()}
    turns: dict[str, Step] = {
        method: lambda each=each: [next(each) for _ in range(TURN)]  # type: ignore[misc]
        for method, each in batches.items()
    }
    single = alternate(once, repetitions_in(seconds / 2, once), CPU)
    times = alternate(turns, repetitions_in(seconds / 2, turns), CPU)
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


def make_images(folder: Path) -> np.ndarray:
    """Write a `cifar10.npz` of noise, and return its training images."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8) for count in (10 * BATCH, 10))
    labels = np.arange(len(train)) % 10
    np.savez(folder / "cifar10.npz", x_train=train, y_train=labels, x_test=test, y_test=labels[:10])
    return train


def in_batches(data: CIFAR10) -> Iterator[Tensor]:
    """Yield what a data module makes of random images, without end."""
    dataset = data.dataset("train")
    rng = np.random.default_rng(0)
    for epoch in itertools.count():
        keys = map(Key, itertools.repeat(epoch), rng.permutation(len(dataset))[:BATCH].tolist())
        (images,), _ = data.on_after_batch_transfer(dataset.__getitems__(list(keys)), 0)
        yield images


def one_by_one(arrays: np.ndarray, data: CIFAR10) -> Iterator[Tensor]:
    """Yield what torchvision and timm make of random images, without end."""
    erasing = RandomErasing(ERASE_PROB, mode="pixel", device="cpu")
    crop, flip = T.RandomCrop(32, padding=SHIFT), T.RandomHorizontalFlip(FLIP_PROB)
    transform: Callable[[Image.Image], Tensor] = T.Compose(
        [crop, flip, T.ToTensor(), T.Normalize(data.mean, data.std), erasing]
    )
    rng = np.random.default_rng(0)
    while True:
        chosen = arrays[rng.permutation(len(arrays))[:BATCH]]
        yield torch.stack([transform(Image.fromarray(image)) for image in chosen])


def model_step() -> Step:
    """Return a training step of ViT-Ti/4."""
    model = VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=12, num_heads=3, num_classes=10)
    images, labels = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))
    return make_step(model, images, labels, "training", "float32")


def repetitions_in(seconds: float, steps: dict[str, Step]) -> int:
    """Return how many repetitions fill the time, two at least."""
    once = alternate(steps, 1, CPU)
    return max(2, int(seconds / sum(itertools.chain(*once.values()))) - 5)  # less those that warm up, twice


if __name__ == "__main__":
    main()
