from pathlib import Path

import pytest

from benchmarks import augmentation


def test_both_ways_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(augmentation, "BATCH", 4)
    monkeypatch.setattr(augmentation, "TURN", 2)
    augmentation.main(["--seconds", "0", "--out", str(tmp_path)])
    table = (tmp_path / "augmentation.md").read_text()
    assert table == capsys.readouterr().out
    methods = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:]
    assert methods == ["vitlab", "torchvision"]
    assert "| **1.00** [1.00, 1.00] |" in table.splitlines()[-1]
