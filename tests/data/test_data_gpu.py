"""On a GPU: the same images as on the CPU, and no step that waits for the device."""

import pytest
import torch

from tests.gpu import no_waiting
from vitlab.data import BatchAugment, Crops, Digits, InMemoryDataModule, Mixup, MultiCrop, PlacedDigits
from vitlab.data.counter_rng import Draws
from vitlab.data.in_memory import TensorImages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


_VIEWS = MultiCrop(
    global_crops=Crops(number=2, size=32, scale=(0.4, 1.0), blur_prob=(1.0, 0.1), solarize_prob=(0.0, 0.2)),
    local_crops=Crops(number=8, size=16, scale=(0.05, 0.4), blur_prob=(0.5,)),
)


def _views(device: str, epoch: int = 0) -> list[torch.Tensor]:
    images = torch.arange(64 * 3 * 32 * 32, device=device).view(64, 3, 32, 32).square().remainder(251).to(torch.uint8)
    return _VIEWS.views_of_batch(images, Draws(0, epoch, torch.arange(64, device=device)))


each_data_set = pytest.mark.parametrize("kind", [Digits, PlacedDigits])


def _data(kind: type[InMemoryDataModule]) -> InMemoryDataModule:
    augment = BatchAugment(shift=1, crop_scale=(0.5, 1.0), flip_prob=0.5, erase_prob=0.5)
    data = kind(batch_size=64, augment=augment, mixup=Mixup())
    data.setup("fit")
    return data


def _to_gpu(data: InMemoryDataModule) -> None:
    dataset = data.dataset("train")
    assert isinstance(dataset, TensorImages)
    dataset.to(torch.device("cuda"))


@each_data_set
def test_images_are_those_of_the_cpu(kind: type[InMemoryDataModule]) -> None:
    here, there = _data(kind), _data(kind)
    _to_gpu(there)
    for expected, batch in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert batch.images.is_cuda
        (images,), labels = there.on_after_batch_transfer(batch, 0)
        (expected_images,), expected_labels = here.on_after_batch_transfer(expected, 0)
        # A crop's sides are rounded logarithms and a gray value a rounded interpolation: one step of 255 / 0.376.
        assert ((images.cpu() - expected_images).abs() > 0.05).float().mean() < 0.001
        torch.testing.assert_close(labels.cpu(), expected_labels)


@each_data_set
def test_no_step_waits_for_the_device(kind: type[InMemoryDataModule]) -> None:
    data = _data(kind)
    _to_gpu(data)
    loader = iter(data.train_dataloader())
    data.on_after_batch_transfer(next(loader), 0)  # the first one copies mean and std
    with no_waiting():
        for _ in range(3):
            data.on_after_batch_transfer(next(loader), 0)


def test_views_are_those_of_the_cpu() -> None:
    # Whole numbers: a value half-way between two of them may become either, and contrast then moves it further.
    for ours, expected in zip(_views("cuda"), _views("cpu"), strict=True):
        assert ((ours.cpu() - expected).abs() > 2).float().mean() < 0.01


def test_no_view_waits_for_the_device() -> None:
    _views("cuda")
    with no_waiting():
        _views("cuda", epoch=1)
