"""The measurement of distortions runs and says what it measured; how fast anything is, it alone can say."""

import pytest

from vitlab.studies import augmentation_cost
from vitlab.studies.augmentation_cost import markdown, measure_small_images


def test_every_method_is_measured_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augmentation_cost, "BATCH", 8)
    rows = measure_small_images(0.1)
    assert [(r.pipeline, r.method) for r in rows] == [
        ("crop, flip, erase", "vitlab"),
        ("crop, flip, erase", "torchvision"),
    ]
    for row in rows:
        assert row.repetitions >= 2
        assert 0 < row.images_per_second_q1 <= row.images_per_second <= row.images_per_second_q3
        assert row.share_of_step > 0
        assert row.method == "vitlab" or row.ratio == 1
    table = markdown(rows)
    assert table.count("\n|") == 2 + 2
    assert "| crop, flip, erase | vitlab |" in table
