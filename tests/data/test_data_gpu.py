"""On a GPU: the same images as on the CPU, and no step that waits for the device."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from vitlab.data import BatchAugment, Crops, Digits, Mixup, MultiCrop
from vitlab.data.counter_rng import Draws
from vitlab.data.encoded import EncodedCrops
from vitlab.data.in_memory import TensorImages
from vitlab.data.rand_augment import RandAugment

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


_VIEWS = MultiCrop(
    Crops(number=2, size=32, scale=(0.4, 1.0), blur_prob=(1.0, 0.1), solarize_prob=(0.0, 0.2)),
    Crops(number=8, size=16, scale=(0.05, 0.4), blur_prob=(0.5,)),
)


def _views(device: str, epoch: int = 0) -> list[torch.Tensor]:
    images = torch.arange(64 * 3 * 32 * 32, device=device).view(64, 3, 32, 32).square().remainder(251).to(torch.uint8)
    return _VIEWS.views_of_batch(images, Draws(0, epoch, torch.arange(64, device=device)))


def _data(rand_augment: str | None = None) -> Digits:
    augment = BatchAugment(
        1, crop_scale=(0.5, 1.0), flip_prob=0.5, erase_prob=0.5, rand_augment=rand_augment, color_jitter=0.4
    )
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
        # A crop's sides are rounded logarithms and a gray value a rounded interpolation: one step of 255 / 0.376.
        assert ((images.cpu() - expected_images).abs() > 0.05).float().mean() < 0.001
        torch.testing.assert_close(labels.cpu(), expected_labels)


@pytest.mark.parametrize("description", ["rand-m9-mstd0.5-inc1", "rand-m9-n3-p1-t3a"])
def test_rand_augment_is_that_of_the_cpu(description: str) -> None:
    # A fraction that is cut off may be cut off on the other side of a whole number, and more may be made of it.
    images = torch.arange(64 * 3 * 32 * 32).view(64, 3, 32, 32).square().remainder(251).to(torch.uint8)
    distort, indices = RandAugment(description, 32, (0.5, 0.4, 0.3)), torch.arange(64)
    expected = distort(images, Draws(0, 0, indices))
    ours = distort(images.cuda(), Draws(0, 0, indices.cuda(), indices.numpy()))
    assert ((ours.cpu().int() - expected.int()).abs() > 1).float().mean() < 0.001


@pytest.mark.parametrize("rand_augment", [None, "rand-m9-mstd0.5-inc1", "rand-m9-n3-p1-t3a"])
def test_no_step_waits_for_the_device(rand_augment: str | None) -> None:
    data = _data(rand_augment)
    _to_gpu(data)
    loader = iter(data.train_dataloader())
    data.on_after_batch_transfer(next(loader), 0)  # the first one copies mean and std
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            data.on_after_batch_transfer(next(loader), 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_views_are_those_of_the_cpu() -> None:
    # Whole numbers: a value half-way between two of them may become either, and contrast then moves it further.
    for ours, expected in zip(_views("cuda"), _views("cpu"), strict=True):
        assert ((ours.cpu() - expected).abs() > 2).float().mean() < 0.01


def test_no_view_waits_for_the_device() -> None:
    _views("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        _views("cuda", epoch=1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_nvjpeg_decodes_what_the_host_decodes() -> None:
    # Both are within the standard's tolerance (ITU-T T.83) of each other, and colors are enlarged otherwise.
    files = []
    for seed in range(8):
        noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 120)).save(file := io.BytesIO(), "JPEG", quality=95)
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    boxes, mirrored = [(10, 20, 90, 100)] * 8, [seed % 2 == 0 for seed in range(8)]
    crops = EncodedCrops(list("abcdefgh"), files, boxes, mirrored, 64, "bicubic")
    here, there = crops.on(torch.device("cpu")), crops.on(torch.device("cuda"))
    assert there.is_cuda
    assert (there.cpu().float() - here.float()).square().mean() < 4  # 42 dB
