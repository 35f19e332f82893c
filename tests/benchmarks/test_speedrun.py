"""The table of the speedrun, from the records that the repository has."""

from pathlib import Path

import pytest

from benchmarks.speedrun import Entry, read, row
from vitlab.evaluation.cost import processor_name

RECORDS = Path(__file__).parents[2] / "docs/records"


def test_the_operations_of_a_run_are_those_of_its_images() -> None:
    """The second ViT: 47 MFLOP for an image of 16 px, 85 % of them, and 196 for one of 32 px (docs/results.md)."""
    run = read(RECORDS / "speedrun-second/vit/seed-101")
    assert run.teraflops == pytest.approx((0.85 * 47 + 0.15 * 196) * run.images / 1e6, rel=0.01)
    assert 60 * run.wall * (1 - run.overhead) * run.rate == pytest.approx(run.teraflops)


def test_a_row_relates_the_rate_to_the_machines() -> None:
    runs = [read(folder) for folder in sorted((RECORDS / "speedrun-second/vit").glob("seed-*"))]
    here = runs[0]._replace(rate=0.03, machine=processor_name())
    found = row("speedrun-second", "ViT", Entry(runs, here), {"32-true": 0.12})
    assert (found["of the matrix rate"], found["GFLOP/s"], found["TFLOP"], found["seeds"]) == (
        "25 %",
        "30",
        "24.9",
        "7",
    )
    elsewhere = row("speedrun-second", "ViT", Entry(runs, here._replace(machine="another")), {"32-true": 0.12})
    assert (elsewhere["of the matrix rate"], elsewhere["GFLOP/s"]) == ("", "30")
