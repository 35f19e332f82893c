"""The measurement of photographs' way to a batch: what is compared is alike, and the table says it."""

from pathlib import Path

import pytest
import torch

from vitlab.studies import loaders
from vitlab.studies.loaders import Loading, make_photos, markdown, measure_photos


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Loading]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loaders, "PHOTOS", 6)
        return measure_photos(make_photos(tmp_path_factory.mktemp("photos")), seconds=0)


def test_every_method_is_measured_beside_timms(rows: list[Loading]) -> None:
    assert [row.method for row in rows] == [
        "timm",
        "timm, uint8",
        "vitlab, decoded by Pillow",
        "vitlab",
        "vitlab, normalized here",
        "prepared, JPEG",
        "prepared, RGB",
    ]
    assert rows[0].ratio == rows[0].ratio_q1 == rows[0].ratio_q3 == 1
    assert all(row.ratio_q1 <= row.ratio <= row.ratio_q3 and row.images_per_second > 0 for row in rows)


def test_pictures_are_pillows_to_the_stated_decibels(rows: list[Loading]) -> None:
    psnr = {row.method: row.psnr for row in rows}
    assert psnr["timm"] is None  # it is the reference
    assert psnr["vitlab"] == psnr["vitlab, decoded by Pillow"]  # these photographs are too small to be read at half
    assert (psnr["vitlab"] or 0) > 54
    assert (psnr["prepared, RGB"] or 0) > (psnr["prepared, JPEG"] or 0) > 40


def test_the_table_has_a_line_for_each_method(rows: list[Loading]) -> None:
    header, _, *table = markdown(rows).splitlines()
    assert "timm" in header
    assert len(table) == 2 + len(rows)
    assert all(line.count("|") == 6 for line in table)


def test_without_a_folder_photographs_are_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loaders, "PHOTOS", 2)
    threads = torch.get_num_threads()
    assert len(measure_photos(None, seconds=0)) == 7
    assert torch.get_num_threads() == threads


def test_a_broken_photograph_is_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loaders, "PHOTOS", 4)
    root = make_photos(tmp_path)
    (root / "a" / "000.jpg").write_bytes(b"")
    _, names = loaders._sources(root, tmp_path / "packed")
    assert names == ["a/002.jpg", "b/001.jpg", "b/003.jpg"]
