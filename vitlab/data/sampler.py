"""The order of images: a function of (seed, epoch), distributed over processes and resumable within an epoch.

Samplers yield keys with epoch and index, so that a data set knows the epoch even in persistent workers.
"""

import hashlib
import itertools
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int, Int64
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from vitlab.data.counter_rng import Stream, host_seed, permutation
from vitlab.distributed import places

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

OPEN_BLOCKS = 8  # blocks that are read at a time: chunks of 64 MB of a stream


class Key(NamedTuple):
    """What a sampler yields for an image."""

    epoch: int | None  # None in evaluation, where nothing is drawn
    image: int  # its index, plus r · size the r-th time that the epoch has it
    first: int = 0  # the image at the same place in the first process, whose index seeds what a batch has in common


@dataclass(eq=False)
class TrainSampler(Sampler[Key]):
    """Yield the images in the order of (seed, epoch), each global batch distributed as in `vitlab.distributed.places`.

    An epoch consists of whole optimizer steps of `world_size · accumulate` batches; the rest, different images in each
    epoch, is left out. So its length and the images of a step depend on the product alone.

    With `repeats` above 1 each image appears `repeats` times in a row, augmented differently each time: repeated
    augmentation (Hoffer et al. 2020, "Augment your batch"; DeiT's `samplers.py`). As there, the repeats of an image are
    in one global batch, and an epoch keeps its length and sees one in `repeats` of the images. Unlike there, a single
    process repeats too. The r-th repeat of image i has the index r · size + i, and so its own augmentation.

    With `balance` above 0 images are `balanced` by `classes` (N,); with `blocks` (N,) they come `by_open_blocks`.
    """

    size: int
    seed: int
    rank: int = 0
    world_size: int = 1
    trainer: "Trainer | None" = None
    repeats: int = 1
    batch_size: int = 1
    accumulate: int = 1
    blocks: np.ndarray | None = None
    balance: float = 0.0
    classes: np.ndarray | None = None
    epoch: int = field(default=0, init=False)  # set by Lightning before each epoch through `set_epoch`
    start: int = field(default=0, init=False)  # images that the next pass skips: an interrupted run has seen them

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a new one starts at its first image."""
        if self.trainer is not None:  # whose number is right; `epoch` counts one that was continued at its end twice
            epoch = self.trainer.current_epoch
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        step = self.batch_size * self.accumulate
        return self.size // (self.world_size * step) * step

    def images(self, epoch: int) -> Int64[np.ndarray, "{self.size}"]:
        images = permutation(self.size, self.seed, epoch)
        if self.balance:
            assert self.classes is not None
            images = balanced(images, self.classes, self.balance, self.repeats, self.seed, epoch)
        return images if self.blocks is None else by_open_blocks(images, self.blocks, self.seed, epoch)

    def __iter__(self) -> Iterator[Key]:
        epoch, start = self.epoch, self.start
        self.start = 0
        images = self.images(epoch)
        order = (images[:, None] + self.size * np.arange(self.repeats)).ravel()[: len(self) * self.world_size]
        batches = order.reshape(-1, self.batch_size * self.world_size)
        own, first = (
            batches[:, places(self.batch_size, rank, self.world_size).numpy()].ravel()[start:].tolist()
            for rank in (self.rank, 0)
        )
        yield from map(Key, itertools.repeat(epoch), own, first)


def balanced(
    images: Int64[np.ndarray, "N"], classes: Int[np.ndarray, "N"], balance: float, repeats: int, seed: int, epoch: int
) -> Int64[np.ndarray, "N"]:
    """Draw an epoch of as many images, in which a class of n images has a share in proportion to n^(1 − balance).

    Kang et al. 2020 ("Decoupling representation and classifier for long-tailed recognition", eq. 1) have q = 1 −
    balance: 0 leaves the images as they are, 0.5 is their square-root sampling, 1 gives all classes the same share.
    Shares are met by each epoch to within one image, and each image of a class is drawn as often as the others, or once
    more. The t-th time it has the index i + t · repeats · N, so that its augmentation is drawn anew.
    """
    _, place, counts = np.unique(classes, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts ** (1.0 - balance))
    start = (host_seed(seed, epoch, Stream.BALANCE) >> 10) / 2**53  # below 1: which classes are rounded up
    quotas = np.diff(np.floor(len(images) * (ends / ends[-1]) + start).astype(np.int64), prepend=0)
    by_class = np.split(images[np.argsort(place[images], kind="stable")], np.cumsum(counts)[:-1])
    step = repeats * len(images)
    drawn = [
        np.resize(own, quota) + np.arange(quota) // len(own) * step
        for own, quota in zip(by_class, quotas.tolist(), strict=True)
    ]
    return np.concatenate(drawn)[permutation(len(images), seed, epoch, Stream.BALANCE)]


def by_open_blocks(
    images: Int64[np.ndarray, "N"], blocks: Int[np.ndarray, "N"], seed: int, epoch: int
) -> Int64[np.ndarray, "N"]:
    """Return shuffled indices so that only `OPEN_BLOCKS` blocks are open at a time; blocks come in random order."""
    numbers, place = np.unique(blocks, return_inverse=True)
    turn = np.argsort(permutation(len(numbers), seed, epoch, Stream.BLOCK))
    return images[np.argsort(turn[place[images % len(images)]] // OPEN_BLOCKS, kind="stable")]


class SameImagesSampler(SequentialSampler):  # with `overfit_batches` Lightning replaces any other
    """Yield the images in order with the augmentation of epoch 0, to overfit a few batches."""

    def __iter__(self) -> Iterator[Any]:
        return (Key(0, index, index) for index in super().__iter__())


class EvalSampler(Sampler[Key]):
    """Yield images `rank, rank + world_size, …` in order: over all processes each image once, without padding."""

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.rank, self.world_size = size, rank, world_size

    def __len__(self) -> int:
        return len(range(self.rank, self.size, self.world_size))

    def __iter__(self) -> Iterator[Key]:
        return (Key(None, index) for index in range(self.rank, self.size, self.world_size))


class EvenBatchSampler(Sampler[list[Key]]):
    """Divide each process's images into the same number of batches, whose sizes differ by at most one.

    Processes have n or n + 1 images. With full batches, one might have a batch more than another; but DDP broadcasts
    the model's buffers in every forward pass, also in evaluation, and those calls must match.
    """

    def __init__(self, sampler: EvalSampler, batch_size: int) -> None:
        self.sampler, self.batch_size = sampler, batch_size
        self.closed = False  # yields nothing, so that a loader starts its workers without work

    def __len__(self) -> int:
        most = len(range(0, self.sampler.size, self.sampler.world_size))  # process 0 never has fewer than another
        return -(-most // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        if self.closed:
            return
        keys = list(self.sampler)
        bounds = np.linspace(0, len(keys), len(self) + 1).round().astype(int).tolist()
        yield from (keys[first:last] for first, last in itertools.pairwise(bounds) if last > first)


def pass_keys(size: int, seed: int, epochs: range, step: int, piece: int, drop_last: bool) -> Iterator[list[Key]]:
    """Yield the keys of each batch of several epochs, in the order of (seed, epoch).

    Each `step` images of an epoch are cut into batches of at most `piece`; the last step of an epoch has those that are
    left, or is left out with `drop_last`.
    """
    end = size // step * step if drop_last else size
    for epoch in epochs:
        order = permutation(size, seed, epoch)[:end].tolist()
        for first in range(0, end, step):
            images = order[first : first + step]
            for start in range(0, len(images), piece):
                yield [Key(epoch, image, images[start]) for image in images[start : start + piece]]


class TrainLoader(DataLoader):
    """A DataLoader that Lightning accepts as resumable.

    The trainer's progress determines where to continue: it counts the batches that were trained on, not those that were
    fetched. The state is what the images of these depend on.
    """

    def state_dict(self) -> dict[str, Any]:
        sampler = self.sampler
        assert isinstance(sampler, TrainSampler)
        blocks = sampler.blocks
        return {
            "images": sampler.size,
            "batch_size": int(sampler.batch_size),
            "seed": sampler.seed,
            "processes": sampler.world_size,
            "repeats": int(sampler.repeats),
            "balance": float(sampler.balance),
            "blocks": None if blocks is None else hashlib.blake2b(blocks.tobytes(), digest_size=8).hexdigest(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse to continue in the middle of an epoch whose first batches were different."""
        sampler = self.sampler
        assert isinstance(sampler, TrainSampler)
        now = self.state_dict()
        changed = [f"{key} was {state[key]}, is {now[key]}" for key in now if state.get(key, now[key]) != now[key]]
        if sampler.start > 0 and changed:
            wrong = f"The rest of epoch {sampler.epoch}, in which the checkpoint lies, would have other images"
            remedy = "Continue with the old values, or from a checkpoint written at the end of an epoch."
            raise ValueError(f"{wrong}: {'; '.join(changed)}.\n{remedy}")


def check_batches(dataset: Sized, batch_size: int, world_size: int, accumulate: int = 1) -> None:
    """Raise ValueError if the training set is too small for one optimizer step."""
    share = len(dataset) // (world_size * accumulate)
    if share < batch_size:
        times = f", {accumulate} times a step," if accumulate > 1 else ""
        fewer = " and lower trainer.accumulate_grad_batches" if share == 0 and accumulate > 1 else ""
        there = f"{len(dataset)} images on {world_size} process{'es' if world_size > 1 else ''}"
        wrong = f"batch_size {batch_size}{times} is larger than the training set: {there}"
        raise ValueError(f"{wrong}.\nSet data.init_args.batch_size to {max(share, 1)} or less{fewer}.")


def check_evaluation(split: str, batches: EvenBatchSampler, limit: float) -> None:
    """Raise ValueError if a process has fewer images than batches to evaluate, within the trainer's `limit` of them."""
    size, world_size = batches.sampler.size, batches.sampler.world_size
    each = min(limit, len(batches)) if isinstance(limit, int) else int(limit * len(batches))
    if size // world_size < each:
        larger = "Set data.init_args.eval_batch_size to 2 or more, or give" if size >= world_size else "Give"
        few = f"The {split} split has {size} images for {world_size} processes in batches of {batches.batch_size}"
        raise ValueError(f"{few}, and one would wait forever for another.\n{larger} fewer processes.")
