"""Photographs of another kind than RGB: gray, with transparency, and from a source of one's own."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from PIL import Image

from examples.dicom import Dicom
from tests.data.conftest import photos
from vitlab.data import ImageFolder, MultiCrop, PhotoAugment, PhotoSource
from vitlab.data.decoding import Half, Pixels, windowed
from vitlab.data.photos import Preprocessing
from vitlab.deployment.predict import Pictures

_SPLITS = ("train", "val")
_PLAIN = PhotoAugment(rand_augment=None, erase_prob=0.0)


def _folder(root: Path, channels: int, **settings: object) -> ImageFolder:
    return photos(root, **{"mean": (0.5,) * channels, "std": (0.25,) * channels} | settings)


def _write(root: Path, values: np.ndarray, suffix: str = "png") -> Path:
    """Write one image of each class and split, H = W = 20, whose values are those given, in turn."""
    for split in _SPLITS:
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True)
            for number in range(4):
                picture = Image.fromarray(np.broadcast_to(values, (20, 20, *values.shape)).copy())
                picture.save(root / split / name / f"{number}.{suffix}")
    return root


def _view(data: ImageFolder) -> torch.Tensor:
    (images,), _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
    return images


def test_gray_is_the_luma_of_the_colors(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60], np.uint8))
    luma = round(0.299 * 200 + 0.587 * 30 + 0.114 * 60)
    torch.testing.assert_close(_view(_folder(root, 1)), torch.full((4, 1, 16, 16), (luma / 255 - 0.5) / 0.25))


def test_four_channels_keep_the_transparency(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60, 90], np.uint8))
    expected = (torch.tensor([200, 30, 60, 90]) / 255 - 0.5) / 0.25
    torch.testing.assert_close(_view(_folder(root, 4, augment=_PLAIN))[0, :, 5, 5], expected)


class Bands(PhotoSource):
    """Images of five bands, of which the first is the class."""

    def __init__(self, type_: type[np.generic] = np.uint8) -> None:
        self.class_names = ["dark", "bright"]
        self.splits = {"train": ([str(i) for i in range(24)], np.arange(24) % 2)}
        self.type = type_

    def read(self, name: str, half: Half | None = None) -> Pixels:
        pixels = np.random.default_rng(int(name)).integers(0, 200, (20, 24, 5)).astype(self.type)
        pixels[..., 0] += 50 * (int(name) % 2)
        return pixels


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 4}, "augment.rand_augment needs images of 1 or 3 channels"),
        ({"channels": 1, "multi_crop": MultiCrop()}, "multi_crop needs images of 3 channels"),
        ({"channels": 3, "std": (0.5,)}, "need one value per channel"),
    ],
)
def test_what_does_not_go_together_is_rejected(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _folder(tmp_path, **settings)


def test_images_of_other_channels_or_deeper_pixels_are_refused(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array([200, 30, 60], np.uint8))
    with pytest.raises(ValueError, match="has 3 channels of uint8, but mean has 2 values"):
        _folder(root, 2, augment=_PLAIN).setup("fit")  # before training
    with pytest.raises(ValueError, match="has 5 channels of uint8, but mean has 3 values"):
        next(iter(ImageFolder(source=Bands(), num_workers=0, augment=_PLAIN).val_dataloader()))
    deep = ImageFolder(source=Bands(np.uint16), num_workers=0, augment=_PLAIN, mean=(0.5,) * 5, std=(0.25,) * 5)
    with pytest.raises(ValueError, match="has 5 channels of uint16"):
        next(iter(deep.val_dataloader()))


def test_a_folder_or_a_source_is_needed() -> None:
    for settings in ({}, {"root": "photos", "source": Bands()}, {"table": "photos.csv", "source": Bands()}):
        with pytest.raises(ValueError, match="needs one of"):
            ImageFolder(**settings)


def _values(channels: int, kind: type) -> np.ndarray:
    """Return (20, 20, C) of values around 0 … 4000, those of each channel the same everywhere."""
    values = np.array([-50, 0, 123, 1001, 4000, 5000, 777, 2, 3, 4, 5, 6, 7][-channels:])
    return np.broadcast_to(values.clip(0 if kind == np.uint16 else None).astype(kind), (20, 20, channels)).copy()


LAYOUTS: dict[str, tuple[int, type, dict[str, Any]]] = {  # channels, type of the values, how tifffile lays them out
    "16 bits": (1, np.uint16, {}),
    "floats": (1, np.float32, {}),
    "16-bit colors": (3, np.uint16, {"photometric": "rgb"}),
    "two bands of floats": (2, np.float32, {"photometric": "minisblack", "planarconfig": "contig"}),
    "four bands": (4, np.uint16, {"photometric": "minisblack", "planarconfig": "contig"}),
    "thirteen planes": (13, np.uint16, {"photometric": "minisblack", "planarconfig": "separate"}),
    "five pages": (5, np.float32, {"photometric": "minisblack"}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_window_maps_values_of_any_depth_to_zero_and_one(tmp_path: Path, layout: str) -> None:
    """The oracle is the formula in double precision, which 8 bits would miss by up to 1/510."""
    channels, kind, how = LAYOUTS[layout]
    values = _values(channels, kind)
    for folder in (tmp_path / split / name for split in _SPLITS for name in "ab"):
        folder.mkdir(parents=True)
        for i in range(4):
            if channels == 1:
                Image.fromarray(values[..., 0]).save(folder / f"{i}.tif")
            else:
                planes = values if how.get("planarconfig", "contig") == "contig" else np.moveaxis(values, 2, 0)
                pages = np.moveaxis(values, 2, 0) if layout == "five pages" else planes
                pytest.importorskip("tifffile").imwrite(folder / f"{i}.tif", pages, **how)
    data = _folder(tmp_path, channels, window=(100, 4100), augment=_PLAIN)
    expected = ((values[0, 0].astype(float) - 100) / 4000).clip(0, 1)
    want = torch.tensor((expected - 0.5) / 0.25, dtype=torch.float32)
    torch.testing.assert_close(_view(data)[0, :, 5, 5], want, atol=1e-5, rtol=0)
    (trained,), _ = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    torch.testing.assert_close(trained[0, :, 5, 5], want, atol=1e-5, rtol=0)
    assert data.raw_images("val", [0])[0].dtype == np.uint8

    stored = Preprocessing.from_metadata(json.loads(json.dumps(data.preprocessing.metadata())))  # of an export
    for given in (tmp_path / "val" / "a" / "0.tif", values):
        (pixels,) = next(Pictures([given]).read(stored))
        torch.testing.assert_close(stored(pixels)[:, 5, 5], want, atol=1e-5, rtol=0)
    without = "give data.window" if kind == np.float32 and channels == 1 else r"data\.window: \[LOW, HIGH\]"
    if channels not in (3, 4) and layout != "16 bits":
        with pytest.raises(ValueError, match=without):
            _view(_folder(tmp_path, channels, augment=_PLAIN))


def test_percentiles_are_those_of_each_image_and_band(tmp_path: Path) -> None:
    """The oracle is numpy.percentile in double precision; an export remembers the percentiles, not their values."""
    tifffile, values = pytest.importorskip("tifffile"), {}
    for seed, path in enumerate(sorted(_write(tmp_path, np.zeros(3, np.uint8), "tif").rglob("*.tif"))):
        drawn = np.random.default_rng(seed).gamma(2, 500, (16, 16, 2)) * [1, 9]
        values[path] = drawn.astype(np.uint16 if seed % 2 else np.float32)
        tifffile.imwrite(path, values[path], photometric="minisblack", planarconfig="contig")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--window", type=ImageFolder.__annotations__["window"])
    window = parser.parse_args(["--window=[0.5%, 99%]"]).window
    data = _folder(tmp_path, 2, window=window, mean=(0.0, 0.0), std=(1.0, 1.0), crop_pct=None, augment=_PLAIN)
    stored = Preprocessing.from_metadata(json.loads(json.dumps(data.preprocessing.metadata())))
    for name, image in zip(data.image_names("val"), _view(data), strict=False):
        own = values[tmp_path / name].astype(float)
        low, high = np.percentile(own, [0.5, 99], axis=(0, 1))
        expected = torch.tensor(((own - low) / (high - low)).clip(0, 1)).permute(2, 0, 1).float()
        (pixels,) = next(Pictures([tmp_path / name]).read(stored))
        for found in (image, stored(pixels)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert data.window is not None
    assert {type(end) for end in data.window} == {str}  # else torch.load would refuse a checkpoint
    assert not windowed(np.full((4, 4), 7.0), data.window).any()  # of one value: black
    with pytest.raises(ArgumentError, match="101%"):
        parser.parse_args(["--window=[1%, 101%]"])


def test_rand_augment_sees_a_window_in_256_levels(tmp_path: Path) -> None:
    root = _write(tmp_path, np.array(1001, np.uint16))
    with_ops = PhotoAugment(rand_augment="rand-m0-p1-inc1", erase_prob=0.0)
    (images,), _ = (data := _folder(root, 1, window=(0, 4000), augment=with_ops)).on_after_batch_transfer(
        next(iter(data.train_dataloader())), 0
    )
    levels = (images * 0.25 + 0.5) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


def test_the_example_reads_dicom_in_hounsfield_units(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    for number in range(24):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = tmp_path / "ab"[number % 2] / f"patient{number // 4}_{number}.dcm"
        path.parent.mkdir(exist_ok=True)
        file = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
        file.Rows, file.Columns, file.SamplesPerPixel, file.PixelRepresentation = 20, 20, 1, 0
        file.PhotometricInterpretation, file.RescaleSlope, file.RescaleIntercept = "MONOCHROME2", 2, -1024
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 16, 15
        file.PixelData = np.full((20, 20), 500 + number, np.uint16).tobytes()
        pydicom.dcmwrite(path, file, enforce_file_format=True)
    source, by_patient = Dicom(str(tmp_path), (-1000, 400)), "/([^/]+)_[^/]*$"
    plain: dict = {"image_size": 16, "num_workers": 0, "augment": _PLAIN, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    data = ImageFolder(source=source, groups=by_patient, **plain)
    name, view = data.image_names("val")[0], _view(data)[0, :, 5, 5]
    hounsfield = 2 * (500 + int(name.partition("_")[2].removesuffix(".dcm"))) - 1024
    torch.testing.assert_close(view, torch.full((3,), (hounsfield + 1000) / 1400))
    assert {each.partition("_")[0][2:] for each in data.image_names("val")}.isdisjoint(
        each.partition("_")[0][2:] for each in data.image_names("train")
    )
