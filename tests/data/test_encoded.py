"""Photographs that the device decodes: here the CPU, by torchvision's libjpeg-turbo, as a worker's decoder is."""

import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image

from vitlab.data import ImageFolder, MultiCrop, PhotoAugment, encoded
from vitlab.data.encoded import EncodedCrops
from vitlab.data.packing import prepare

CPU = torch.device("cpu")
FOUR = {"train/a": 6, "train/b": 6, "val/a": 2, "val/b": 2}
PLAIN = PhotoAugment(rand_augment=None, erase_prob=0.0)

PhotoFolder = Callable[[dict[str, int]], Path]


def folder(root: Path, **arguments: Any) -> ImageFolder:
    defaults: dict[str, Any] = {"image_size": 32, "batch_size": 12, "num_workers": 0, "augment": PLAIN}
    return ImageFolder(root=str(root), **{**defaults, **arguments})


def differences(one: ImageFolder, other: ImageFolder) -> torch.Tensor:
    """Return by how many gray levels two modules' first training batches differ, an image each."""
    ((a,), _), names = one.training_batch(0, 0, CPU)
    ((b,), _), same = other.training_batch(0, 0, CPU)
    assert names == same
    std = torch.tensor(one.std).view(3, 1, 1)
    return ((a - b) * std * 255).abs().amax(dim=(1, 2, 3))


def test_crops_are_those_of_the_workers(photo_folder: PhotoFolder) -> None:
    root = photo_folder(FOUR)
    for augment in (PLAIN, replace(PLAIN, interpolation="bilinear", flip_prob=1.0)):
        workers, device = (folder(root, augment=augment, decode_on_device=there) for there in (False, True))
        assert differences(workers, device).max() < 2
    mirrored = folder(root, augment=replace(PLAIN, flip_prob=1.0), decode_on_device=True)
    assert differences(folder(root, augment=replace(PLAIN, flip_prob=0.0)), mirrored).min() > 2  # it can tell


def test_what_is_no_plain_jpeg_is_decoded_as_ever(photo_folder: PhotoFolder) -> None:
    # A turned one, one of four inks, a PNG, one without colors: nvJPEG knows nothing of the first three.
    root = photo_folder(FOUR)
    files = sorted((root / "train" / "a").iterdir())
    pictures = [Image.open(file).copy() for file in files[:4]]
    turned = Image.Exif()
    turned[0x0112] = 6
    pictures[0].save(files[0], exif=turned)
    pictures[1].convert("CMYK").save(files[1])
    files[2].unlink()
    pictures[2].save(files[2].with_suffix(".png"))
    pictures[3].convert("L").save(files[3])
    assert differences(folder(root), folder(root, decode_on_device=True)).max() < 2


@pytest.mark.parametrize("pixels", [False, True])
def test_prepared_photographs_too(photo_folder: PhotoFolder, tmp_path: Path, pixels: bool) -> None:
    prepare(photo_folder(FOUR), tmp_path / "prepared", 48, pixels)
    prepared = tmp_path / "prepared"
    assert differences(folder(prepared), folder(prepared, decode_on_device=True)).max() < 2


def test_workers_hand_over_files_and_nothing_is_moved_before_it_is_decoded(photo_folder: PhotoFolder) -> None:
    root = photo_folder(FOUR)
    data = folder(root, num_workers=1, decode_on_device=True, augment=PhotoAugment(rand_augment_on_device=True))
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert isinstance(batch.images, EncodedCrops)
    moved = move_data_to_device(batch, torch.device("meta"))
    assert moved.images is batch.images
    assert moved.labels.is_meta
    sizes = {name: (root / name).stat().st_size for name in batch.images.names}
    assert [len(file) for file in batch.images.files] == list(sizes.values())
    (views,), _ = data.on_after_batch_transfer(batch, 0)
    assert views.shape == (12, 3, 32, 32)
    (evaluated,) = data.val_dataloader()
    assert isinstance(evaluated.images, torch.Tensor)


def test_a_kind_of_jpeg_that_the_device_refuses_is_decoded_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    files = []
    for _ in range(3):
        picture = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize((40, 50))
        picture.save(file := io.BytesIO(), "JPEG")
        files.append(np.frombuffer(file.getvalue(), np.uint8))
    crops = EncodedCrops(["a", "b", "c"], files, [(0, 0, 50, 40)] * 3, [False] * 3, 16, "bicubic")
    expected = crops.on(CPU)
    real = encoded.decode_jpeg

    def refusing(what: Any, *arguments: Any) -> Any:
        several = what if isinstance(what, list) else [what]
        if any(len(jpeg) == len(files[1]) for jpeg in several):
            raise RuntimeError("nvjpegDecode failed")
        return real(what, *arguments)

    monkeypatch.setattr(encoded, "decode_jpeg", refusing)
    assert torch.equal(crops.on(CPU), expected)


def test_a_damaged_file_is_named(photo_folder: PhotoFolder) -> None:
    root = photo_folder(FOUR)
    data = folder(root, decode_on_device=True)
    data.setup("fit")
    file = root / "train" / "a" / "003.jpg"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 3])
    with pytest.raises(ValueError, match=r"train/a/003.jpg cannot be decoded any more: .*Start again"):
        data.training_batch(0, 0, CPU)
    file.unlink()
    with pytest.raises(ValueError, match=r"train/a/003.jpg cannot be decoded any more: .*Start again"):
        data.training_batch(0, 0, CPU)


@pytest.mark.parametrize("settings", [{"multi_crop": MultiCrop()}, {"augment": PhotoAugment()}])
def test_what_workers_would_have_to_distort_is_refused(photo_folder: PhotoFolder, settings: Any) -> None:
    with pytest.raises(ValueError, match="decode_on_device leaves workers no picture to distort"):
        folder(photo_folder(FOUR), decode_on_device=True, **settings)


def test_a_batch_of_files_can_be_sent_between_processes(photo_folder: PhotoFolder) -> None:
    data = folder(photo_folder(FOUR), decode_on_device=True)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    again = pickle.loads(pickle.dumps(batch))
    assert torch.equal(again.images.on(CPU), batch.images.on(CPU))
