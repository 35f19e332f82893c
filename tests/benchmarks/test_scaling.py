"""The formulas of Liu et al. 2021 against torch's counter of FLOPs, and what is written; not how fast anything is."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import Architecture, Factor, Part, Shape, msa, multiply_adds, window_msa
from vitlab.evaluation.cost import count_flops

CPU = torch.device("cpu")
SMALL = Shape(side=8, window=4, width=32, depth=2, batch=2)


def test_the_formulas_are_the_papers_worked_out_by_hand() -> None:
    # A map of 2 × 3 tokens of width 5: 4 · 6 · 25 for the four linear layers, then 2 · 36 · 5 for the two products.
    assert msa(2, 3, 5) == 600 + 360
    assert window_msa(2, 3, 5, 1) == 600 + 2 * 1 * 6 * 5
    assert window_msa(14, 14, 96, 14) == msa(14, 14, 96)  # one window is the whole map


@pytest.mark.parametrize("part", ["attention", "block"])
@pytest.mark.parametrize("architecture", ["ViT", "Swin"])
@pytest.mark.parametrize(
    "change", [{}, {"side": 16}, {"window": 8}, {"window": 2}, {"width": 64}, {"depth": 3}, {"batch": 5}], ids=str
)
def test_torch_counts_two_flops_for_each_multiply_add(
    architecture: Architecture, part: Part, change: dict[str, int]
) -> None:
    shape = replace(SMALL, **change)
    layers = scaling.build(architecture, part, shape)
    assert count_flops(layers, scaling.tokens(architecture, shape, CPU)) == 2 * multiply_adds(architecture, part, shape)


@pytest.mark.slow
def test_table_and_figure_are_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps: dict[Factor, tuple[int, ...]] = {"side": (7, 14), "window": (7,), "width": (32,), "depth": (1,)}
    monkeypatch.setattr(scaling, "SWEEPS", sweeps | {"batch": (1,)})
    scaling.main(["--repetitions", "2", "--out", str(tmp_path)])
    table = pd.read_csv(tmp_path / "scaling.csv")
    assert len(table) == 2 * 2 * 6  # architectures, parts, values
    assert (table.flops == 2 * table.multiply_adds).all()
    assert (table.seconds_q1 <= table.seconds).all()
    assert (table.seconds <= table.seconds_q3).all()
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "scaling.png" in capsys.readouterr().out
