"""The one interface between data sets and everything else.

A loader hands over `Batch`es of uint8. On the device they become what a model sees: `(views, labels)`, a list of
normalized image tensors and the labels. Training images are distorted on the way, by (seed, epoch, image) alone.

Letters: B images in the batch, C channels, H rows, W columns, K classes.
"""

import hashlib
import itertools
import logging
import math
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitlab.data.augment import BatchAugment, erase, normalize
from vitlab.data.counter_rng import Draws, Stream, permutation
from vitlab.data.mixup import Mixup, draw_mixup, mix_images, mix_labels
from vitlab.data.multi_crop import MultiCrop
from vitlab.data.photos import Framing, PhotoAugment, Picture, central_crop
from vitlab.data.sampler import (
    EvalSampler,
    EvenBatchSampler,
    Key,
    SameImagesSampler,
    TrainLoader,
    TrainSampler,
    check_batches,
)
from vitlab.internals import replaces_samplers, training_position

log = logging.getLogger("vitlab")

_MOST_WORKERS = 16  # beyond, a GPU's training step is seldom what waits

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
View = tuple[list[Tensor], Tensor]


@rank_zero_only
def tell(message: str) -> None:
    """Say something once, whatever the number of processes; Lightning's own `rank_zero_info` is silenced in a run."""
    log.info(message)


class Batch(NamedTuple):
    """What a loader yields, before it is on the device."""

    images: Tensor | list[Tensor]  # (B, C, H, W) uint8; a list of views where workers cut them
    labels: Tensor  # (B,) int64
    indices: Tensor  # (B,) int64, within the split; r · size more for an image's r-th repeat
    epoch: int | None  # None in evaluation: nothing is drawn
    first: int  # indices[0] of the first process, kept on the host
    host_indices: np.ndarray | None = None  # the indices once more: an array stays on the host when a batch is moved


class ImageDataset(Dataset[Batch], ABC):
    """One split. Reads a batch at a time from keys; index modulo the number of images is the image.

    Attributes:
        labels: (N,) int64.
    """

    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """What to call each image in a report."""

    @abstractmethod
    def __getitems__(self, keys: list[Key]) -> Batch:
        """Read one batch."""

    @abstractmethod
    def raw(self, index: int) -> np.ndarray:
        """Return one image as (H, W, C) uint8, undistorted."""

    def digest(self) -> str:
        """Return a hash of the split: equal where the same images come in the same order with the same labels."""
        content = hashlib.blake2b(digest_size=16)
        for part in (*self._identity(), self.labels.tobytes()):
            content.update(part)
        return content.hexdigest()

    def _identity(self) -> list[bytes]:
        """Return what tells these images from others; a data set whose names do not say it adds the pixels."""
        return ["\0".join(self.names).encode()]


class ImageDataModule(LightningDataModule, ABC):
    """Loaders, splits, and the way from uint8 to what the model sees.

    Args:
        batch_size: images a step and process.
        eval_batch_size: the same in evaluation; null: `batch_size`.
        num_workers: processes that read ahead; 0: the training process reads; null: one a core, less one, at most 16.
        seed: decides order and distortions.
        split_seed: decides which images are held out, the same for every `seed`.
        mean: of each channel, on the scale 0 … 1, subtracted from the images.
        std: of each channel, on the same scale; divides the images.
        erase_prob: the share of training images in which a box is filled with noise, after normalization.
        mixup: blend training images with each other; labels become (B, K). Null: off.
        multi_crop: several views of each training image, in place of all other distortions. Null: one view.
        repeats: how often a batch holds each of its images, see `TrainSampler`; only a data set that takes indices
            beyond its number of images may offer more than 1.
    """

    augment: BatchAugment | PhotoAugment

    def __init__(
        self,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int | None,
        seed: int,
        split_seed: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        erase_prob: float,
        mixup: Mixup | None,
        multi_crop: MultiCrop | None,
        repeats: int = 1,
    ) -> None:
        super().__init__()
        sizes = {
            "batch_size": batch_size,
            "eval_batch_size": batch_size if eval_batch_size is None else eval_batch_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"data.init_args.{name} is {size}; it must be 1 or more, 64 is a start.")
        counts = {"num_workers": num_workers or 0, "seed": seed, "split_seed": split_seed}
        for name, value in counts.items():
            if value < 0:
                raise ValueError(f"data.init_args.{name} is {value}; it must be 0 or more.")
        if repeats < 1:
            raise ValueError(f"data.init_args.repeats is {repeats}; 1 is each image once, 3 is DeiT's.")
        if mixup is not None and batch_size < 2:
            raise ValueError(f"mixup needs two images to mix, batch_size is {batch_size}; raise it or set mixup: null.")
        if mixup is not None and multi_crop is not None:
            raise ValueError("mixup and multi_crop are both on, but views are not mixed; set one of them to null.")
        if not all(math.isfinite(x) for x in mean) or not all(math.isfinite(x) and x > 0 for x in std):
            raise ValueError(
                f"mean {list(mean)} and std {list(std)} must be finite and std above 0, on the scale 0 … 1."
            )
        self.batch_size, self.eval_batch_size = sizes.values()
        self.num_workers, self.seed, self.split_seed = num_workers, seed, split_seed
        self.mean, self.std = tuple(mean), tuple(std)
        self.erase_prob, self.mixup, self.multi_crop, self.repeats = erase_prob, mixup, multi_crop, repeats
        self._datasets: dict[Split, ImageDataset] = {}
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._continue_at: dict[str, Any] | None = None
        self._recalled: dict[str, Any] | None = None

    # What a data set tells about itself, before any image is read.

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names in the order of the labels."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side in pixels of the images that the model sees."""

    @property
    @abstractmethod
    def framing(self) -> Framing:
        """How evaluation makes one of this data set's images, before `_to_size`, of any picture."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def in_chans(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def test_is_validation(self) -> bool:
        """Whether the images that test are those that validate, so that whatever was chosen on them flatters."""
        if self._recalled is not None and not self._datasets:
            return bool(self._recalled["test_is_validation"])
        return self.dataset("test").digest() == self.dataset("val").digest()

    def facts(self) -> dict[str, Any]:
        """Return what these data are, as JSON has it, wherever they lie: classes, and each split's size and digest."""
        splits = {
            split: {"images": len(self.dataset(split)), "digest": self.dataset(split).digest()} for split in SPLITS
        }
        same = splits["test"]["digest"] == splits["val"]["digest"]  # each is hashed once: of CIFAR all pixels are
        return {"classes": self.class_names, "splits": splits, "test_is_validation": same}

    def recall(self, facts: dict[str, Any]) -> None:
        """Know from `facts` of these data what can be asked before any image is read, also where they are gone."""
        self._recalled = facts

    # What a data set does.

    @abstractmethod
    def _read(self) -> dict[Split, ImageDataset]:
        """Open all splits."""

    @abstractmethod
    def _distort(self, images: Tensor, draws: Draws) -> Tensor:
        """Distort a batch of training images (B, C, H, W) on its device."""

    @abstractmethod
    def _to_size(self, images: Tensor) -> Tensor:
        """Bring a batch of images to `image_size` on its device; values stay within 0 … 255."""

    # The public face.

    def dataset(self, split: Split) -> ImageDataset:
        """Return one split, reading the data on the first call."""
        if not self._datasets:
            self._datasets = self._read()
        return self._datasets[split]

    def labels(self, split: Split) -> np.ndarray:
        """Return the labels (N,) int64 in evaluation order."""
        return self.dataset(split).labels

    def image_names(self, split: Split) -> list[str]:
        """Return what each image is called, in evaluation order."""
        return self.dataset(split).names

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        """Return images as (H, W, C) uint8, undistorted, for galleries and for baselines on pixels."""
        dataset = self.dataset(split)
        return [dataset.raw(int(index)) for index in indices]

    def batches(self, split: Split, device: torch.device | str, every: int = 1) -> Iterator[View]:
        """Yield a split as the model sees it in evaluation, in order, without a trainer: all images, or each n-th."""
        loader = self._eval_loader(split, rank=0, world_size=every)
        for batch in loader:
            yield self.on_after_batch_transfer(move_data_to_device(batch, torch.device(device)), 0)

    def training_batch(self, epoch: int, number: int, device: torch.device) -> tuple[View, list[str]]:
        """Return this process's n-th batch of an epoch as the model sees it in training, and its images' names."""
        dataset, sampler = self.dataset("train"), self._train_sampler()
        sampler.epoch, sampler.start = epoch, number * self.batch_size
        batch = dataset.__getitems__(list(itertools.islice(sampler, self.batch_size)))
        view = self.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        return view, [dataset.names[int(i) % len(dataset)] for i in batch.indices]

    def view_of(self, pictures: Sequence[Picture], device: torch.device) -> Tensor:
        """Return RGB pictures from elsewhere as the model sees its own images in evaluation, (B, C, H, W)."""
        gray = self.in_chans == 1
        framed = [central_crop(np.array(p.convert("L").convert("RGB") if gray else p), *self.framing) for p in pictures]
        images = torch.stack(framed)[:, : self.in_chans].to(device)
        return normalize(self._to_size(images), *self._statistics(device))

    def first_batches(self, split: Split, limit: float) -> tuple[int, int]:
        """Return how many images, and of how many classes, evaluation sees that is limited to the first batches.

        `limit` is the trainer's: a number of each process's batches, or as a float a share of them. Images come in the
        order of their classes, so that a few batches hold few classes.
        """
        images: list[int] = []
        for rank in range(self._world_size):
            batches = self._eval_batches(split, rank, self._world_size)
            most = limit if isinstance(limit, int) else int(limit * len(batches))
            images += [key.image for batch in itertools.islice(batches, int(most)) for key in batch]
        return len(images), len(np.unique(self.labels(split)[images]))

    def setup(self, stage: str) -> None:
        """Read the data; say what a limited evaluation leaves out.

        Raises:
            ValueError: views of another size than the model's, a batch that the images cannot fill, labels that cannot
                be mixed, or a trainer that would deal the images out once more.
        """
        self._check_trainer()
        dataset = self.dataset("train")
        self._tell_limits(stage)
        if stage == "fit":
            if self.mixup is not None and not _has_one_class_each(dataset):
                raise ValueError(
                    f"mixup blends the classes of images, of which each has one, but the labels are "
                    f"{dataset.labels.dtype} {dataset.labels.shape}; set mixup: null."
                )
            if self.multi_crop is not None and self.multi_crop.global_crops.size != self.image_size:
                raise ValueError(
                    f"multi_crop.global_crops.size is {self.multi_crop.global_crops.size}, but the model is made for "
                    f"image_size {self.image_size}, which evaluation sees; give both the same."
                )
            check_batches(dataset, self.batch_size, self._world_size, self._accumulate)

    def _check_trainer(self) -> None:
        """Refuse Lightning's own distributed sampler: around ours, each process would see its share of its share."""
        if self.trainer is not None and self._world_size > 1 and replaces_samplers(self.trainer):
            raise ValueError("Each process has its own images already: give Trainer(use_distributed_sampler=False).")

    def _tell_limits(self, stage: str) -> None:
        """Say what `limit_val_batches` and the like leave of a split."""
        if self.trainer is None:
            return
        limits: dict[str, tuple[Split, float]] = {
            "fit": ("val", self.trainer.limit_val_batches),
            "validate": ("val", self.trainer.limit_val_batches),
            "test": ("test", self.trainer.limit_test_batches),
            "predict": ("test", self.trainer.limit_predict_batches),
        }
        split, limit = limits[stage]
        if isinstance(limit, float) and limit == 1.0:  # 1 is a batch
            return
        images, classes = self.first_batches(split, limit)
        total = len(self.dataset(split))
        if 0 < images < total:
            of = f", {classes} of {self.num_classes} classes" if _has_one_class_each(self.dataset(split)) else ""
            tell(f"The {split} split is limited to its first {images:,} of {total:,} images{of}.")

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the epoch, or of the rest of the epoch, that the trainer is about to run."""
        dataset = self.dataset("train")
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            same = SameImagesSampler(dataset)
            return DataLoader(dataset, batch_size=self.batch_size, sampler=same, **self._loader_settings)
        sampler = self._train_sampler()
        loader = TrainLoader(
            dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True, **self._loader_settings
        )
        stored, self._continue_at = self._continue_at, None
        if stored is not None:
            sampler.epoch, sampler.start = stored["epoch"], stored["batches"] * self.batch_size
            loader.load_state_dict(stored["loader"])
        elif self.trainer is not None:
            sampler.epoch, done = training_position(self.trainer)
            sampler.start = done * self.batch_size
        return loader

    def _train_sampler(self) -> TrainSampler:
        shared = (self._rank, self._world_size, self.trainer, self.repeats, self.batch_size, self._accumulate)
        return TrainSampler(len(self.dataset("train")), self.seed, *shared)

    def state_dict(self) -> dict[str, Any]:
        """Return where in the epochs the run is, and what decides which images come before."""
        assert self.trainer is not None
        loader = self.trainer.train_dataloader
        if not isinstance(loader, TrainLoader):
            return {}
        epoch, batches = training_position(self.trainer)
        return {"epoch": epoch, "batches": batches, "loader": loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where to go on.

        The trainer's own counters come too late: a schedule asks for the number of steps, for which Lightning takes the
        loader and starts its workers before it restores them.
        """
        self._continue_at = state_dict

    def val_dataloader(self) -> DataLoader:
        """Return the loader of the validation split; of a training, with its workers waiting.

        A worker is a copy of its process. Were it made after the first epoch, each page that the training then writes
        to would be copied first: gigabytes, amid the first validation, and held for as long as the worker lives.
        """
        loader = self._eval_loader("val", self._rank, self._world_size)
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and loader.persistent_workers:
            assert isinstance(loader.batch_sampler, EvenBatchSampler)
            loader.batch_sampler.closed = True
            iter(loader)
            loader.batch_sampler.closed = False
        return loader

    def test_dataloader(self) -> DataLoader:
        """Return the loader of the test split."""
        return self._eval_loader("test", self._rank, self._world_size)

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test split, in a form that Lightning can take apart to learn the indices."""
        dataset = self.dataset("test")
        sampler = EvalSampler(len(dataset), self._rank, self._world_size)
        return DataLoader(dataset, batch_size=self.eval_batch_size, sampler=sampler, **self._loader_settings)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        """Turn uint8 into what the model sees; a training batch is distorted, erased and mixed, or cut into views."""
        mean, std = self._statistics(batch.labels.device)
        images = batch.images
        if isinstance(images, list):
            return [normalize(view, mean, std) for view in images], batch.labels
        if batch.epoch is None:
            return [normalize(self._to_size(images), mean, std)], batch.labels

        draws = Draws(self.seed, batch.epoch, batch.indices, batch.host_indices)
        if self.multi_crop is not None:
            views = self.multi_crop.views_of_batch(images, draws)
            return [normalize(view, mean, std) for view in views], batch.labels
        images = normalize(self._to_size(self._distort(images, draws)), mean, std)
        if self.erase_prob > 0:
            images = erase(images, draws, self.erase_prob)
        if self.mixup is None:
            return [images], batch.labels
        lam, box = draw_mixup(self.mixup, self.seed, batch.epoch, batch.first, *images.shape[-2:])
        return [mix_images(images, lam, box)], mix_labels(batch.labels, self.num_classes, lam)

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and std (C, 1, 1); copied to a GPU once, since each copy waits until the GPU is idle."""
        if device not in self._on_device:
            mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (self.mean, self.std))
            self._on_device[device] = mean, std
        return self._on_device[device]

    # Processes.

    @property
    def _rank(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_rank

    @property
    def _world_size(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    @property
    def _accumulate(self) -> int:
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    @property
    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        processes = 1 if self.trainer is None else self.trainer.num_devices  # on this machine; they share its cores
        return min(suggested_max_num_workers(processes), _MOST_WORKERS)

    @property
    def _pin_memory(self) -> bool:
        return torch.cuda.is_available()

    @property
    def _loader_settings(self) -> dict[str, Any]:
        return {
            "num_workers": self._workers,
            "persistent_workers": self._workers > 0,
            "collate_fn": _as_it_is,
            "worker_init_fn": _leave_signals_to_the_training_process,
            "pin_memory": self._pin_memory,
            # Without its own, a loader draws from the global generator whenever it is started: after a restart,
            # dropout would continue with other numbers than in the undisturbed run.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _eval_loader(self, split: Split, rank: int, world_size: int) -> DataLoader:
        batches = self._eval_batches(split, rank, world_size)
        return DataLoader(self.dataset(split), batch_sampler=batches, **self._loader_settings)

    def _eval_batches(self, split: Split, rank: int, world_size: int) -> EvenBatchSampler:
        return EvenBatchSampler(EvalSampler(len(self.dataset(split)), rank, world_size), self.eval_batch_size)


def _has_one_class_each(dataset: ImageDataset) -> bool:
    return dataset.labels.ndim == 1 and np.issubdtype(dataset.labels.dtype, np.integer)


def _as_it_is(batch: Any) -> Batch:
    """Stand in for the loader's collation: data sets read whole batches."""
    return batch


def _leave_signals_to_the_training_process(worker: int) -> None:
    """Read on after a signal, which Ctrl-C and SLURM send to every process: the run is still to complete its step."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def check_fraction(name: str, value: float) -> None:
    """Refuse a share of the images that leaves nothing on one side.

    Raises:
        ValueError: not strictly between 0 and 1.
    """
    if not 0 < value < 1:
        raise ValueError(f"data.init_args.{name} is {value}; it must lie between 0 and 1, 0.1 is customary.")


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted indices (kept, held out): `fraction` of each class is held out, of each at least one image.

    A function of `labels`, `fraction` and `seed` alone. A class of one image keeps it.
    """
    held_out = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        wanted = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = permutation(len(members), seed, int(label), Stream.SPLIT)
        held_out.append(members[order[:wanted]])
    chosen = np.sort(np.concatenate(held_out))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen
