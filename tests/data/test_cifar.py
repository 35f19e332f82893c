"""CIFAR: the file, its splits, and what is said when it is damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from vitlab.data import CIFAR10, CIFAR100


def test_splits(cifar_root: Path) -> None:
    data = CIFAR10(root=str(cifar_root), val_fraction=0.1)
    data.setup("fit")
    assert [len(data.labels(split)) for split in ("train", "val", "test")] == [180, 20, 50]
    assert np.bincount(data.labels("val")).tolist() == [2] * 10
    assert not set(data.image_names("train")) & set(data.image_names("val"))
    assert data.image_names("test")[42] == "test/00042"


def test_names_labels_and_pixels_belong_together(cifar_root: Path) -> None:
    data = CIFAR10(root=str(cifar_root))
    source = np.load(cifar_root / "cifar10.npz")
    place = int(data.image_names("val")[7].removeprefix("train/"))
    assert np.array_equal(data.raw_images("val", [7])[0], source["x_train"][place])
    assert data.labels("val")[7] == source["y_train"][place]


def test_class_names_are_torchvisions() -> None:
    # Their order is the labels' meaning. torchvision reads them from the archive; ours are checked against its fine
    # and coarse structure only by number and order.
    assert CIFAR10().class_names == [
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ]
    names = CIFAR100().class_names
    assert len(set(names)) == 100
    assert names == sorted(names)  # the archive's fine_label_names are in alphabetical order


def test_properties_need_no_file(tmp_path: Path) -> None:
    data = CIFAR100(root=str(tmp_path / "nothing"))
    assert (data.num_classes, data.image_size, data.in_chans) == (100, 32, 3)


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Replace torchvision's class, whose checksums are its own business; return which splits were asked for."""
    calls = []

    class Source:
        filename = "cifar-10-python.tar.gz"

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert download
            calls.append(train)
            self.data = np.full((20, 32, 32, 3), 7, np.uint8)
            self.targets = [i % 10 for i in range(20)]

    Source.__name__ = "CIFAR10"  # which names the file
    monkeypatch.setattr(CIFAR10, "official", Source)
    return calls


def test_download_is_converted_once_and_whole(tmp_path: Path, official: list[bool]) -> None:
    for _ in range(2):
        data = CIFAR10(root=str(tmp_path / "data"), batch_size=4)
        data.prepare_data()
        data.setup("fit")
        assert torch.equal(next(iter(data.val_dataloader())).images[0], torch.full((3, 32, 32), 7, dtype=torch.uint8))
    assert official == [True, False]
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar10.npz"]


def test_without_file_and_network_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(FileNotFoundError, match=r"cifar10\.npz, and the download failed") as raised:
        CIFAR10(root=str(tmp_path)).prepare_data()
    assert len(str(raised.value).splitlines()) <= 5


def _save(root: Path, **changes: np.ndarray | None) -> Path:
    arrays: dict[str, np.ndarray | None] = {
        "x_train": np.zeros((20, 32, 32, 3), np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": np.zeros((10, 32, 32, 3), np.uint8),
        "y_test": np.arange(10),
        **changes,
    }
    np.savez(root / "cifar10.npz", **{name: array for name, array in arrays.items() if array is not None})
    return root


@pytest.mark.parametrize("damage", ["empty", "text", "short", "a flipped byte in the middle of the images", "a lack"])
def test_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    _save(tmp_path, **({"y_test": None} if damage == "a lack" else {}))
    file = tmp_path / "cifar10.npz"
    whole = file.read_bytes()
    flipped = whole[:5000] + bytes([whole[5000] ^ 0xFF]) + whole[5001:]  # which the archive's checksum tells
    kinds = {"empty": b"", "text": b"<html>404</html>", "short": whole[: len(whole) // 2], "a lack": whole}
    file.write_bytes(kinds.get(damage, flipped))
    with pytest.raises(ValueError, match=r"(?s)is damaged.*Delete"):
        CIFAR10(root=str(tmp_path)).setup("fit")
