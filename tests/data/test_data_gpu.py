"""On a GPU: the same images as on the CPU, and no step that waits for the device."""

import pytest
import torch

from vitlab.data import BatchAugment, Digits, Mixup
from vitlab.data.in_memory import TensorImages

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def _data() -> Digits:
    augment = BatchAugment(shift=1, crop_scale=(0.5, 1.0), flip_prob=0.5, erase_prob=0.5)
    data = Digits(batch_size=64, augment=augment, mixup=Mixup())
    data.setup("fit")
    return data


def _to_gpu(data: Digits) -> None:
    dataset = data.dataset("train")
    assert isinstance(dataset, TensorImages)
    dataset.to(torch.device("cuda"))


def test_images_are_those_of_the_cpu() -> None:
    here, there = _data(), _data()
    _to_gpu(there)
    for expected, batch in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert batch.images.is_cuda
        (images,), labels = there.on_after_batch_transfer(batch, 0)
        (expected_images,), expected_labels = here.on_after_batch_transfer(expected, 0)
        # A crop's sides are rounded logarithms and a grey value a rounded interpolation: one step of 255 / 0.376.
        assert ((images.cpu() - expected_images).abs() > 0.05).float().mean() < 0.001
        torch.testing.assert_close(labels.cpu(), expected_labels)


def test_no_step_waits_for_the_device() -> None:
    data = _data()
    _to_gpu(data)
    loader = iter(data.train_dataloader())
    data.on_after_batch_transfer(next(loader), 0)  # the first one copies mean and std
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            data.on_after_batch_transfer(next(loader), 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
