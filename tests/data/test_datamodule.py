"""What every data set refuses, and says, before anything is trained or evaluated."""

from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from tests.objectives.small import quick_trainer
from vitlab.data import BatchAugment, Digits, ImageDataModule, ImageFolder, Mixup, PhotoSource
from vitlab.data.dataset import Split
from vitlab.data.in_memory import InMemoryDataModule, TensorImages


class _Many(InMemoryDataModule):
    """Labels of another kind than one class an image."""

    native_size, class_names = 8, ["a", "b", "c"]

    def __init__(self, labels: np.ndarray, mixup: Mixup | None) -> None:
        super().__init__(batch_size=4, image_size=8, mean=(0.5,), std=(0.5,), mixup=mixup)
        self._targets = labels

    def read_splits(self) -> dict[Split, TensorImages]:
        number = len(self._targets)
        images = torch.zeros(number, 1, 8, 8, dtype=torch.uint8)
        return {
            split: TensorImages(images, self._targets, [f"{split}/{i}" for i in range(number)])
            for split in ("train", "val", "test")
        }


@pytest.mark.parametrize(
    "labels", [np.zeros((8, 3), np.int64), np.zeros((8, 3), np.float32), np.zeros(8, np.float32)], ids=str
)
def test_mixup_needs_one_class_an_image(labels: np.ndarray) -> None:
    # It ended in a traceback of one_hot in the first step.
    with pytest.raises(ValueError, match=f"mixup blends .* {labels.dtype} .*; set mixup: null"):
        _Many(labels, Mixup()).setup("fit")
    _Many(labels, None).setup("fit")
    _Many(labels, Mixup()).setup("test")


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
def test_classes_may_be_integers_of_any_type(kind: type) -> None:
    # one_hot takes int64 alone, cross_entropy that and uint8.
    classes = np.arange(8) % 3
    of_tensors = _Many(classes.astype(kind), Mixup(prob=1.0))

    class Gray(PhotoSource):
        class_names = ["a", "b", "c"]  # noqa: RUF012
        splits = {"train": ([f"{i}" for i in range(40)], (np.arange(40) % 3).astype(kind))}  # noqa: RUF012

        def read(self, name: str, half: object = None) -> np.ndarray:
            return np.zeros((8, 8, 3), np.uint8)

    of_photos = ImageFolder(source=Gray(), image_size=8, batch_size=4, num_workers=0, mixup=Mixup(prob=1.0))
    for data in (of_tensors, of_photos):
        (_, targets), _ = data.training_batch(0, 0, torch.device("cpu"))
        assert targets.shape == (4, 3)
        assert data.labels("train").dtype == kind  # as read: the digest of a run's images stays
        assert next(data.batches("val", "cpu"))[1].dtype == torch.int64


def _limited(data: ImageDataModule, stage: str, network: nn.Module | None = None, **options: object) -> None:
    data.trainer = quick_trainer(**options)
    if network is not None:
        data.trainer.strategy.connect(network)  # type: ignore[arg-type]
    data.setup(stage)


# Several processes.


def test_lightnings_own_distributed_sampler_is_refused(said: list[str]) -> None:
    # Around ours, each process saw its share of its share: 8 batches an epoch in place of 16, without a word.
    two: dict = {"devices": 2, "strategy": "ddp_fork"}
    with pytest.raises(ValueError, match=r"give Trainer\(use_distributed_sampler=False\)"):
        _limited(Digits(), "fit", **two, use_distributed_sampler=True)
    _limited(Digits(), "fit", **two)
    _limited(Digits(), "fit", use_distributed_sampler=True)
    assert said == []


@pytest.mark.parametrize(
    ("images", "batch", "remedy"), [(15, 1, r"Set .*eval_batch_size to 2 or more"), (1, 4, r"\nGive fewer processes")]
)
@pytest.mark.parametrize(("stage", "split"), [("fit", "val"), ("validate", "val"), ("test", "test")])
def test_processes_that_would_wait_for_each_other_are_refused(
    stage: str, split: str, images: int, batch: int, remedy: str
) -> None:
    # 8 and 7 images, one a batch: the first process's eighth forward pass waited for the buffers of the second.
    two: dict = {"devices": 2, "strategy": "ddp_fork"}

    def data() -> _Many:
        many = _Many(np.zeros(images, np.int64), None)
        many.batch_size, many.eval_batch_size = 1, batch
        return many

    expected = rf"(?s)The {split} split has {images} images for 2 processes in batches of {batch},.*{remedy}"
    if (stage, images) == ("fit", 1):
        expected = "batch_size 1 is larger than the training set: 1 images on 2 processes"
    with pytest.raises(ValueError, match=expected):
        _limited(data(), stage, nn.BatchNorm1d(1), **two)
    if images == 15:
        _limited(data(), stage, nn.LayerNorm(1), **two)  # without buffers no process waits
        _limited(data(), stage, **two, limit_val_batches=7, limit_test_batches=7)
        _limited(data(), stage)


# What the command line reads.


def _parse(class_name: str, **arguments: object) -> Any:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = {"data": {"class_path": f"vitlab.data.{class_name}", "init_args": arguments}}
    return parser.instantiate_classes(parser.parse_object(config)).data


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_setting_one_value_keeps_the_data_sets_other_defaults() -> None:
    # `augment: {shift: 2}` for CIFAR must not turn its mirroring off; `mixup: {}` is the published one.
    assert _parse("CIFAR10", augment={"shift": 2}).augment == BatchAugment(shift=2, flip_prob=0.5)
    assert _parse("CIFAR100", mixup={}).mixup == Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"eval_batch_size": 0}, "eval_batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"val_fraction": 1.0}, "val_fraction"),
        ({"augment": {"shift": -1}}, "shift"),
        ({"augment": {"crop_scale": [0.5, 1.1]}}, "crop_scale"),
        ({"mixup": {"prob": 2}}, "prob"),
        ({"grow": {"start": 0, "step": 4}}, "start"),
        ({"folds": {"count": 5, "test": 0}}, "test"),
        ({"multi_crop": {"hue": -0.1}}, "hue"),
        ({"multi_crop": {"local_crops": {"number": 2, "size": 0, "scale": [0.1, 0.4], "blur_prob": [0.5]}}}, "size"),
    ],
)
def test_values_out_of_range_are_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ArgumentError, match=rf"(?s){message}.*does not conform to restriction"):
        _parse("Digits", **arguments)
