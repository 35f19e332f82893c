"""Data sets small enough to be made anew for each test; nothing is read from the network or from the user's home."""

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitlab.data import ImageFolder
from vitlab.data import image_folder as module
from vitlab.data.checking import Check
from vitlab.data.dataset import Files


def check_images(root: Path, names: list[str]) -> Check:
    """Decode some files of a folder that no earlier check decoded."""
    files = Files(root)
    files.splits = {"train": (names, np.zeros(len(names), np.int64))}
    return files.check()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache of checked files."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def names_of_any_bytes(tmp_path: Path) -> None:
    """Skip a test where the names of files must be UTF-8, as on macOS."""
    file = tmp_path / os.fsdecode(b"\xe9")
    try:
        file.touch()
    except OSError as error:
        pytest.skip(f"names of files must be UTF-8 here: {error.strerror}")
    file.unlink()


@pytest.fixture
def cifar_root(tmp_path: Path) -> Path:
    """A folder with a `cifar10.npz` of 200 + 50 random images."""
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8),
        "y_train": np.arange(200) % 10,
        "x_test": rng.integers(0, 256, (50, 32, 32, 3), dtype=np.uint8),
        "y_test": np.arange(50) % 10,
    }
    np.savez(tmp_path / "cifar10.npz", **arrays)
    return tmp_path


PhotoFolder = Callable[..., Path]


def photo(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    """A smooth colored picture, no two alike."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((width, height))


@pytest.fixture
def photo_folder(tmp_path: Path) -> PhotoFolder:
    """Return a function that makes photographs: `photo_folder({"train/cat": 4, "val/cat": 2})` returns the root."""

    def make(counts: dict[str, int]) -> Path:
        root = tmp_path / "photos"
        for k, (folder, count) in enumerate(counts.items()):
            (root / folder).mkdir(parents=True)
            for i in range(count):
                photo(seed=1000 * k + i).save(root / folder / f"{i:03d}.jpg")
        return root

    return make


def photos(root: Path, **settings: Any) -> ImageFolder:
    """A folder as a data set of small images, read in this process."""
    return ImageFolder(root=str(root), **{"image_size": 16, "batch_size": 4, "num_workers": 0} | settings)


def png(width: int, height: int, depth: int, rows: bytes) -> bytes:
    """A colored PNG that claims this size, whatever its rows hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    packed = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged for the user."""
    lines: list[str] = []
    monkeypatch.setattr(module.log, "info", lines.append)
    return lines
