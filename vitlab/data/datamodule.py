"""The interface between data sets and everything else.

A loader yields `Batch`es of uint8. On the device they become `(views, labels)`: a list of normalized image tensors and
the labels. Training images are augmented on the way, as a function of (seed, epoch, image) alone.

Letters: B images in the batch, C channels, H rows, W columns, K classes.
"""

import atexit
import itertools
import math
import multiprocessing
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, OpenUnitInterval, PositiveFloat, PositiveInt
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.data import suggested_max_num_workers
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from vitlab import log
from vitlab.data.augment import BatchAugment, Growth, erase, normalize, resize
from vitlab.data.counter_rng import Draws
from vitlab.data.dataset import SPLITS, Batch, ImageDataset, Images, Labels, Split, View, has_one_class_each
from vitlab.data.decoding import PictureMode, Size, Window, height_and_width
from vitlab.data.folds import Folds, Indices, class_balanced_order, classes_of, fold_numbers, stratified_split
from vitlab.data.mixup import Mixup, draw_groups, draw_mixup, mix_groups, mix_images, mix_labels
from vitlab.data.multi_crop import MultiCrop
from vitlab.data.photos import Framing, PhotoAugment, Preprocessing
from vitlab.data.sampler import (
    EvalSampler,
    EvenBatchSampler,
    Key,
    SameImagesSampler,
    TrainLoader,
    TrainSampler,
    check_batches,
    check_evaluation,
    pass_keys,
)
from vitlab.data.tables import about_groups, checked_groups, groups_by_name
from vitlab.distributed import places
from vitlab.internals import end_workers, replaces_samplers, training_position
from vitlab.signals import SIGNALS

_MAX_WORKERS = 16  # more rarely shorten the time that a GPU waits


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(LightningDataModule, ABC):
    """Loaders, splits, and the way from uint8 to what the model sees.

    A data set adds its own fields and changes defaults. No setting is a frozen dataclass: Lightning copies a data
    module field by field into processes that it spawns.

    Args:
        batch_size: images per step and process.
        eval_batch_size: the same in evaluation; null: `batch_size`.
        num_workers: processes that read ahead; 0: the training process reads; null: one per core but one, at most 16.
        seed: of order and augmentation; it follows `seed_everything`.
        order_seed: of the order of the training images; null: `seed`.
        augment_seed: of their augmentation, mixing and views; null: `seed`.
        split_seed: of the choice of held-out images.
        val_fraction: fraction of each class's training images that is held out for validation.
        groups: which images show one patient, animal or scene, and stay together in every split that is held out: a
            regular expression of image names, whose parentheses contain the group, or `FILE.csv:COLUMN`. Null: images
            are independent.
        folds: all labelled images but those of a test set of its own are parted, and one part tests; see `Folds`.
            Null: the test images of the data set.
        balance: how often training images of small classes are seen, from 0 (all once an epoch) to 1 (all classes
            equally often): a class of n images in proportion to n^(1 − balance), see `balanced`. An epoch keeps its
            length.
        train_images: number of training images, equally many per class; with one `train_images_seed`, a smaller
            number is a subset of a larger one. Validation and test images stay the same. Null: all.
        train_images_seed: of the choice of these images.
        image_size: side in pixels of the images that the model sees; photographs also take height and width.
        mean: of each channel, on the scale 0 … 1.
        std: of each channel, on the same scale.
        mixup: mixes pairs of training images; labels become (B, K). Null: off.
        multi_crop: several views of each training image instead of `augment`, see `MultiCrop`. Null: one view.
        grow: training images that are smaller at first, see `Growth`. Null: always of `image_size`.
    """

    batch_size: PositiveInt = 64
    eval_batch_size: PositiveInt | None = None
    num_workers: NonNegativeInt | None = None
    seed: int = 0
    order_seed: int | None = None
    augment_seed: int | None = None
    split_seed: int = 0
    val_fraction: OpenUnitInterval = 0.1
    groups: str | None = None
    folds: Folds | None = None
    balance: ClosedUnitInterval = 0.0
    train_images: PositiveInt | None = None
    train_images_seed: int = 0
    image_size: Size = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)
    mixup: Mixup | None = None
    multi_crop: MultiCrop | None = None
    grow: Growth | None = None
    window: Window | None = None  # of a data set of files a setting, see `windowed`
    has_folds = False  # a data set that splits its images by `folds`
    repeats = 1  # a data set that reads indices beyond its number of images may make it a setting, see `TrainSampler`

    def __post_init__(self) -> None:
        super().__init__()
        self.mean, self.std = tuple(self.mean), tuple(map(float, self.std))  # which are stored in checkpoints
        if self.groups is not None:
            checked_groups(self.groups, "data.init_args.groups: ")
        if self.folds is not None and not self.has_folds:
            name = type(self).__name__
            raise ValueError(f"data.init_args.folds: {name} has fixed test images; set folds: null.")
        for name, setting in (("mixup", self.mixup), ("grow", self.grow)):
            if setting is not None and self.multi_crop is not None:
                raise ValueError(f"{name} and multi_crop are both on; set one of them to null.")
        if self.grow is not None and not isinstance(self.image_size, int):
            raise ValueError(f"image_size is {list(self.image_size)}, and only squares grow; set grow: null.")
        if self.grow is not None and self.grow.start >= self.image_size:
            raise ValueError(f"grow.start is {self.grow.start}; give less than image_size, {self.image_size}.")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean {list(self.mean)} and std {list(self.std)} need one value per channel each.")
        self._datasets: dict[Split, ImageDataset] = {}
        self._chosen: np.ndarray | None = None  # by `train_images`, (n,) int64
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._continue_at: dict[str, Any] | None = None
        self._recalled: dict[str, Any] | None = None

    @property
    @abstractmethod
    def augment(self) -> BatchAugment | PhotoAugment:
        """How training images are augmented; a field of each data set."""

    # ---- known before any image is read

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Names in the order of the labels."""

    @property
    @abstractmethod
    def framing(self) -> Framing:
        """How evaluation resizes and crops a picture, before it has `image_size`."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)  # K

    @property
    def in_chans(self) -> int:
        return len(self.mean)  # C

    def facts(self) -> dict[str, Any]:
        """Return class names, and size and digest of each split, for JSON."""
        splits = {
            split: {"images": len(self.dataset(split)), "digest": self.dataset(split).digest()} for split in SPLITS
        }
        twins = splits["test"]["digest"] == splits["val"]["digest"] and self.dataset("test").contents().any()
        same = self.tests_on_validation or bool(twins)  # a copy or link of the folder
        return {"classes": self.class_names, "splits": splits, "test_is_validation": same}

    def recall(self, facts: dict[str, Any]) -> None:
        """Use the class names of an earlier run's `facts`, so that a model can be used without its data."""
        self._recalled = facts

    @property
    def effective_order_seed(self) -> int:  # of the order of the training images
        return self.seed if self.order_seed is None else self.order_seed

    @property
    def effective_augment_seed(self) -> int:  # of augmentation, mixing and views
        return self.seed if self.augment_seed is None else self.augment_seed

    # ---- defined by a data set

    @abstractmethod
    def read_splits(self) -> Mapping[Split, ImageDataset]:
        """Open all splits."""

    def _distort(self, images: Images, draws: Draws) -> Images:
        """Augment training images on their device; photographs are augmented by the workers."""
        return images

    def _to_size(self, images: Images, side: Size) -> Shaped[Tensor, "B C _ _"]:
        """Resize images in 0 … 255 on their device; photographs already have `image_size`."""
        return images if images.shape[-2:] == height_and_width(side) else resize(images, side)

    def _side(self, steps: int | None = None) -> Size:
        """Return the size of training images after optimizer steps, by default those taken, or the last."""
        if self.grow is None or self.trainer is None:
            return self.image_size
        steps = self.trainer.global_step if steps is None else steps
        return self.grow.side(height_and_width(self.image_size)[0], steps / self.trainer.estimated_stepping_batches)

    @property
    def training_shares(self) -> dict[Size, float]:
        """The fraction of the run for which training images have each of their sizes."""
        size = self.image_size
        return {size: 1.0} if self.grow is None else self.grow.shares(height_and_width(size)[0])

    # ---- used by everything else

    def dataset(self, split: Split) -> ImageDataset:
        """Return one split, reading the data on the first call."""
        if not self._datasets:
            splits = dict(self.read_splits())
            if (number := self.train_images) is not None:
                pool = splits["train"]
                if not has_one_class_each(pool.labels):
                    wrong = f"the labels are {pool.labels.dtype} {pool.labels.shape}"
                    raise ValueError(f"train_images takes equally many images of each class; {wrong}.")
                if not self.num_classes <= number <= len(pool):
                    most = f"{self.num_classes} (one image of each class) to {len(pool)} (all training images)"
                    raise ValueError(f"data.init_args.train_images is {number}; give {most}, or null for all.")
                self._chosen = np.sort(class_balanced_order(pool.labels, self.train_images_seed)[:number])
                splits["train"] = pool.take(self._chosen)
            self._datasets = splits
            if self.grouping is not None:
                log.info(about_groups(self.grouping, {each: splits[each].names for each in SPLITS}))
        return self._datasets[split]

    @property
    def grouping(self) -> str | None:
        """How `groups_by_name` tells which images stay together; None: they are independent."""
        return self.groups

    def parted(self, pool: Any) -> dict[Split, Any]:
        """Return the splits by `folds` of images that have `labels`, `names` and `take`."""
        folds, groups = self.folds, self._groups(pool.names)
        assert folds is not None
        tests = fold_numbers(classes_of(pool.labels), folds.count, self.split_seed, groups) == folds.test - 1
        train, val = self.held_out(pool.take(np.flatnonzero(~tests)), self.val_fraction)
        return {"train": train, "val": val, "test": pool.take(np.flatnonzero(tests))}

    def _groups(self, names: Sequence[str]) -> np.ndarray | None:
        grouping = (self.folds and self.folds.groups) or self.grouping
        return None if grouping is None else np.array(groups_by_name(grouping, names))

    def hold_out(self, labels: Labels, names: Sequence[str], fraction: float) -> tuple[Indices, Indices]:
        """Return sorted indices (kept, held out), by class, and by group where the data have groups."""
        return stratified_split(classes_of(labels), fraction, self.split_seed, self._groups(names))

    def held_out(self, pool: Any, fraction: float) -> tuple[Any, Any]:
        """Return the images (kept, held out) of such as `parted` takes."""
        return tuple(pool.take(own) for own in self.hold_out(pool.labels, pool.names, fraction))

    @property
    def probe_images(self) -> Indices | None:
        """The training images by which a probe chooses where the validation images test; None: of any group."""
        train = self.dataset("train")
        return None if self.grouping is None else self.hold_out(train.labels, train.names, 0.1)[1]

    def labels(self, split: Split) -> Labels:
        """Return the labels in evaluation order."""
        return self.dataset(split).labels

    def image_names(self, split: Split) -> list[str]:
        """Return the name of each image, in evaluation order."""
        return self.dataset(split).names

    @property
    def has_test(self) -> bool:  # whether it comes with images to test on, so that none are held out or used twice
        return True

    @property
    def tests_on_validation(self) -> bool:
        """Whether the test images are the validation images, so that nothing may be chosen on these."""
        return self.image_names("val") == self.image_names("test")

    def masks(self, split: Split) -> Bool[Tensor, "N H W"] | None:
        """Return where the object of each image is, as the model sees it in evaluation; None if this is unknown."""
        return None

    def strata(self, split: Split) -> dict[str, Shaped[np.ndarray, "N"]]:
        """Return kinds of images, as text, by name, for which reports give separate accuracies."""
        return {}

    def raw_images(self, split: Split, indices: Sequence[int]) -> list[np.ndarray]:
        """Return images (H, W, C) uint8 without augmentation, for galleries and baselines on pixels."""
        return [self.dataset(split).raw(int(index)) for index in indices]

    def batches(self, split: Split, device: torch.device | str, every: int = 1) -> Iterator[View]:
        """Yield a split, or every n-th image of it, as the model sees it in evaluation; needs no trainer."""
        for batch in self._eval_loader(split, rank=0, world_size=every):
            yield self.on_after_batch_transfer(move_data_to_device(batch, torch.device(device)), 0)

    def augmented_by(self, augment: BatchAugment | PhotoAugment) -> Self:
        """Return the same images, the training images augmented by `augment` alone: one view, not mixed."""
        other = copy(self)
        vars(other).update(augment=augment, mixup=None, multi_crop=None, grow=None, _datasets={})
        return other

    def training_passes(self, epochs: range, step: int, device: torch.device, drop_last: bool) -> Iterator[View]:
        """Yield every training image once an epoch as training sees it, in batches of `pass_keys`; needs no trainer."""
        dataset, piece = self.dataset("train"), self.eval_batch_size or self.batch_size
        keys = pass_keys(len(dataset), self.effective_order_seed, epochs, step, piece, drop_last)
        for batch in DataLoader(dataset, batch_sampler=keys, **self._loader_settings):
            yield self.on_after_batch_transfer(move_data_to_device(batch, device), 0)

    def views(
        self, split: Split, indices: Sequence[int] | np.ndarray, device: torch.device
    ) -> Float[Tensor, "{len(indices)} C H W"]:
        """Return some images of a split as the model sees them in evaluation."""
        batch = self.dataset(split).__getitems__([Key(None, int(index)) for index in indices])
        (images,), _ = self.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        return images

    def training_batch(self, epoch: int, number: int, device: torch.device) -> tuple[View, list[str]]:
        """Return this process's batch `number` of an epoch as the model sees it, and its images' names."""
        dataset, sampler = self.dataset("train"), self._train_sampler()
        sampler.epoch, sampler.start = epoch, number * self.batch_size
        batch = dataset.__getitems__(list(itertools.islice(sampler, self.batch_size)))
        if self.grow is not None and self.trainer is not None:
            steps_of_epoch = math.ceil(self.trainer.num_training_batches / self._accumulate)
            batch = batch._replace(side=self._side(epoch * steps_of_epoch + number // self._accumulate))
        view = self.on_after_batch_transfer(move_data_to_device(batch, device), 0)
        names = dataset.names
        return view, [names[int(i) % len(dataset)] for i in batch.indices]

    @property
    def picture_mode(self) -> PictureMode:
        """How pictures are decoded to get this data set's channels."""
        modes: dict[int, PictureMode] = {1: "L", 3: "RGB", 4: "RGBA"}
        return modes.get(self.in_chans, "array")

    @property
    def preprocessing(self) -> Preprocessing:
        """From a picture to an image as evaluation shows it; can be used and stored without the data set."""
        return Preprocessing(self.framing, self.image_size, self.mean, self.std, self.picture_mode, self.window)

    def setup(self, stage: str) -> None:
        """Read the data, and refuse settings with which they cannot be trained on."""
        # With Lightning's sampler around ours, each process would see only a part of its part.
        if self.trainer is not None and self._world_size > 1 and replaces_samplers(self.trainer):
            raise ValueError("Each process has its own images already: give Trainer(use_distributed_sampler=False).")
        dataset = self.dataset("train")
        if stage == "fit":
            if (self.mixup is not None or self.balance) and not has_one_class_each(dataset.labels):
                what, off = ("balance counts", "balance: 0") if self.balance else ("mixup blends", "mixup: null")
                labels = f"{dataset.labels.dtype} {dataset.labels.shape}"
                raise ValueError(f"{what} class labels, one per image, but the labels are {labels}; set {off}.")
            size = 0 if self.multi_crop is None else self.multi_crop.global_crops.size
            if size and not (isinstance(self.image_size, int) and size <= self.image_size):
                wrong = f"multi_crop.global_crops.size is {size}, but evaluation uses image_size {self.image_size}"
                raise ValueError(f"{wrong}; give at most that.")
            check_batches(dataset, self.batch_size, self._world_size, self._accumulate)
        if self.trainer is None or stage == "predict":  # whose loader has a plain sampler
            return
        module, tests = self.trainer.lightning_module, stage == "test"
        if module is None or any(True for _ in module.buffers()):  # which processes exchange at each forward pass
            limit = self.trainer.limit_test_batches if tests else self.trainer.limit_val_batches
            split: Split = "test" if tests else "val"
            check_evaluation(split, self._eval_batches(split, 0, self._world_size), limit)

    def train_dataloader(self) -> DataLoader:
        """Return the loader of the epoch, or of the remaining epoch, that the trainer is about to run."""
        dataset = self.dataset("train")
        if self.trainer is not None and self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            same = SameImagesSampler(dataset)
            return DataLoader(dataset, batch_size=self.batch_size, sampler=same, **self._loader_settings)
        sampler, settings = self._train_sampler(), self._loader_settings
        loader = TrainLoader(dataset, batch_size=self.batch_size, sampler=sampler, drop_last=True, **settings)
        stored, self._continue_at = self._continue_at, None
        if stored is not None:
            sampler.epoch, sampler.start = stored["epoch"], stored["batches"] * self.batch_size
            loader.load_state_dict(stored["loader"])
        elif self.trainer is not None:
            sampler.epoch, done = training_position(self.trainer)
            sampler.start = done * self.batch_size
        return loader

    def _train_sampler(self) -> TrainSampler:
        dataset, shared = self.dataset("train"), (self._rank, self._world_size, self.trainer)
        counts = self.repeats, self.batch_size, self._accumulate
        drawn = dataset.blocks(), self.balance, dataset.labels
        return TrainSampler(len(dataset), self.effective_order_seed, *shared, *counts, *drawn)

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the batches done in it, and the settings that decide which images these were."""
        assert self.trainer is not None
        loader = self.trainer.train_dataloader
        if not isinstance(loader, TrainLoader):
            return {}
        epoch, batches = training_position(self.trainer)
        return {"epoch": epoch, "batches": batches, "loader": loader.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where to continue: Lightning creates the loader before it restores the trainer's counters."""
        self._continue_at = state_dict

    def val_dataloader(self) -> DataLoader:
        """Return the loader of the validation split; during training, with its workers already started.

        A worker is a fork of its process: after the first epoch, each page that training writes to would be copied.
        """
        loader = self._eval_loader("val", self._rank, self._world_size)
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and loader.persistent_workers:
            assert isinstance(loader.batch_sampler, EvenBatchSampler)
            loader.batch_sampler.closed = True
            iter(loader)
            loader.batch_sampler.closed = False
        return loader

    def on_exception(self, exception: BaseException) -> None:
        """End the workers that `val_dataloader` started; Lightning ends only those of a loop that has run."""
        loader = None if self.trainer is None else self.trainer.val_dataloaders
        if isinstance(loader, DataLoader):
            end_workers(loader)

    def test_dataloader(self) -> DataLoader:
        return self._eval_loader("test", self._rank, self._world_size)

    def predict_dataloader(self) -> DataLoader:
        """Return the loader of the test split, with a plain sampler from which Lightning reads the indices."""
        dataset, size = self.dataset("test"), self.eval_batch_size or self.batch_size
        sampler = EvalSampler(len(dataset), self._rank, self._world_size)
        return DataLoader(dataset, batch_size=size, sampler=sampler, **self._loader_settings)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> View:
        """Turn uint8 into what the model sees; training batches are augmented, erased and mixed, or cut into views."""
        images, device = batch.images, batch.labels.device
        if device not in self._on_device:  # copied only once: a copy waits until the GPU is idle
            mean, std = (torch.tensor(x, device=device).view(-1, 1, 1) for x in (self.mean, self.std))
            self._on_device[device] = mean, std
        mean, std = self._on_device[device]
        if isinstance(images, list):
            return [normalize(view, mean, std) for view in images], batch.labels
        if batch.epoch is None:
            return [normalize(self._to_size(images, self.image_size), mean, std)], batch.labels

        draws = Draws(self.effective_augment_seed, batch.epoch, batch.indices, batch.host_indices)
        if self.multi_crop is not None:
            views = self.multi_crop.views_of_batch(images, draws)
            return [normalize(view, mean, std) for view in views], batch.labels
        images = normalize(self._to_size(self._distort(images, draws), batch.side or self._side()), mean, std)
        if self.augment.erase_prob > 0:
            images = erase(images, draws, self.augment.erase_prob)
        if self.mixup is None:
            return [images], batch.labels
        seeds = self.effective_augment_seed, batch.epoch, batch.first
        draw = partial(draw_mixup, self.mixup, *seeds, *images.shape[-2:])
        if self.mixup.group is None:
            lam, box = draw()
            return [mix_images(images, lam, box)], mix_labels(batch.labels, self.num_classes, lam)
        own = places(len(images), self._rank, self._world_size).numpy()
        mix = draw_groups(self.mixup.group, own, len(images) * self._world_size, draw)
        images, targets = mix_groups(images, batch.labels, self.num_classes, mix)
        return [images], targets

    # ---- processes and loaders

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
    def _pin_memory(self) -> bool:
        # Not for a run on the CPU of a machine that has a GPU as well.
        on_gpu = self.trainer is None or self.trainer.strategy.root_device.type == "cuda"
        return on_gpu and torch.cuda.is_available()

    @property
    def _loader_settings(self) -> dict[str, Any]:
        workers = self.num_workers
        if workers is None:  # processes on this machine share its cores
            processes = 1 if self.trainer is None else self.trainer.num_devices
            workers = min(suggested_max_num_workers(processes), _MAX_WORKERS)
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "collate_fn": Batch._make,  # as it is: data sets read whole batches
            "worker_init_fn": _leave_signals_to_the_training_process,
            "pin_memory": self._pin_memory,
            # Without its own generator a loader draws from the global one, and dropout would differ after a restart.
            "generator": torch.Generator().manual_seed(self.seed),
        }

    def _eval_loader(self, split: Split, rank: int, world_size: int) -> DataLoader:
        batches = self._eval_batches(split, rank, world_size)
        return DataLoader(self.dataset(split), batch_sampler=batches, **self._loader_settings)

    def _eval_batches(self, split: Split, rank: int, world_size: int) -> EvenBatchSampler:
        sampler = EvalSampler(len(self.dataset(split)), rank, world_size)
        return EvenBatchSampler(sampler, self.eval_batch_size or self.batch_size)


def _leave_signals_to_the_training_process(worker: int) -> None:
    """Ignore signals sent to all processes (Ctrl-C, SLURM): the training process still completes its step."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@atexit.register  # after multiprocessing's own function, so it is called before it
def _end_workers_left_over() -> None:
    """Kill workers that the traceback of an error keeps: they ignore the SIGTERM after which Python waits for them."""
    if left := [child for child in multiprocessing.active_children() if child.daemon]:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for each
        for child in left:
            child.kill()
