from pathlib import Path

import pytest
import torch

from benchmarks import loaders


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "PHOTOS", 6)
        root = loaders.make_photos(tmp_path_factory.mktemp("photos") / "made")
        return {row["method"]: row for row in loaders.photographs(root, seconds=0)}


def test_every_method_is_measured(rows: dict[str, dict[str, str]]) -> None:
    assert list(rows) == ["timm", "timm, uint8", "vitlab, normalized here", "vitlab"]
    assert rows["timm"]["ratio [quartiles]"] == "**1.00** [1.00, 1.00]"


def test_pixels_are_pillows_to_the_stated_decibels(rows: dict[str, dict[str, str]]) -> None:
    psnr = {method: row["PSNR, dB (worst 5 %)"].split()[0] for method, row in rows.items()}
    assert psnr["timm"] == "Pillow's"  # the reference
    assert float(psnr["vitlab"]) > 54


def test_without_a_folder_photographs_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaders, "PHOTOS", 2)
    threads = torch.get_num_threads()
    loaders.main(["photographs", "--seconds", "0", "--out", str(tmp_path)])
    assert torch.get_num_threads() == threads
    assert (tmp_path / "photographs.md").read_text() == capsys.readouterr().out


def test_a_broken_photograph_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loaders, "PHOTOS", 4)
    root = loaders.make_photos(tmp_path / "made")
    (root / "a" / "000.jpg").write_bytes(b"")
    assert loaders.chosen(loaders.Folder(root)) == ["a/002.jpg", "b/001.jpg", "b/003.jpg"]


def test_both_ways_to_augment_small_images_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loaders, "BATCH", 4)
    monkeypatch.setattr(loaders, "TURN", 2)
    loaders.main(["small", "--seconds", "0", "--out", str(tmp_path)])
    table = (tmp_path / "small.md").read_text()
    assert table == capsys.readouterr().out
    methods = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
    assert methods == ["vitlab", "torchvision"]
    assert "| **1.00** [1.00, 1.00] |" in table.splitlines()[-1]
