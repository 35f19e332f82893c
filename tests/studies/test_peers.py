"""Our models beside timm's, on a tiny budget: what is in the table, not how fast anything is."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from vitlab.commands.dispatch import run
from vitlab.models import vit_tiny_patch16_224
from vitlab.studies import peers
from vitlab.studies.peers import build, count_flops

CPU = torch.device("cpu")


def test_training_costs_three_forward_passes() -> None:
    # Backward computes two products for each of the forward pass; the first layer needs no gradient of the images.
    model = vit_tiny_patch16_224(num_classes=1000)
    image, label = torch.randn(1, 3, 224, 224), torch.tensor([0])
    forward = count_flops(model, image, label, "inference")
    assert forward == pytest.approx(2 * 1.26e9, rel=0.02)  # 1.26 GMACs, as timm's results table says
    assert count_flops(model, image, label, "training") == pytest.approx(3 * forward, rel=0.05)


@pytest.mark.slow
def test_the_table_is_written_as_csv_and_markdown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "GEMM_SIDE", 128)
    monkeypatch.setattr(peers, "peak_memory", lambda *args: 2**20)  # below
    arguments = ["model", "vit_tiny_patch16_224", "--batch", "1", "--repetitions", "2", "--precision", "float32"]
    assert run("benchmark", [*arguments, "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "models.csv")
    assert table.phase.tolist() == ["training", "inference"]
    assert (table[["images_per_second", "time_ratio", "share_of_peak", "peak_bytes"]] > 0).all().all()
    assert (tmp_path / "models.md").read_text() == capsys.readouterr().out


@pytest.mark.slow
def test_peak_memory_is_that_of_the_step() -> None:
    """A training step holds at least a gradient of each of the 5.7 M parameters, and not the gigabyte of imports."""
    peak = peers.peak_memory("vit_tiny_patch16_224", "vitlab", "float32", 1, "training", False, CPU)
    assert 4 * 5_700_000 < peak < 2**29


@pytest.mark.parametrize("table", ["model", "parity"])
def test_a_misspelt_name_is_answered_with_the_nearest(
    table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("benchmark", [table, "vit_tinny_patch16_224", "--out", str(tmp_path)]) == 2
    assert "Did you mean vit_tiny_patch16_224?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vit_tiny_patch4_32", "Backbone", "resnet18"])
def test_what_only_one_of_the_two_has_is_not_compared(name: str) -> None:
    for whose in ("vitlab", "timm"):
        with pytest.raises(ValueError, match=f"{name} is not a model of both"):
            build(name, whose, compiled=False, device=CPU)


def test_parity_is_told_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmark", ["parity", "vit_tiny_patch16_224", "--out", str(tmp_path)]) == 0
    table = (tmp_path / "parity.md").read_text()
    assert table == capsys.readouterr().out
    row = next(line for line in table.splitlines() if "vit_tiny" in line).split("|")
    assert max(map(float, row[3:5])) < 1e-5
    assert row[5].strip() == row[6].strip() == "5,717,416"  # DeiT-Ti's published count
