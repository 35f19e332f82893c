"""vitlab's models against timm's on a tiny budget: what is in the tables, not how fast anything is."""

from pathlib import Path

import pytest
import torch

from benchmarks import against_timm
from tests.conftest import EXPERIMENTS
from vitlab.config import load_yaml
from vitlab.models import vit_tiny_patch16_224


def test_training_costs_three_forward_passes() -> None:
    # Backward computes two products for each of the forward pass; the first layer needs no gradient of the images.
    model = vit_tiny_patch16_224(num_classes=1000)
    image, label = torch.randn(1, 3, 224, 224), torch.tensor([0])
    forward = against_timm.count_flops(model, image, label, "inference")
    assert forward == pytest.approx(2 * 1.26e9, rel=0.02)  # 1.26 GMACs in timm's results table
    assert against_timm.count_flops(model, image, label, "training") == pytest.approx(3 * forward, rel=0.05)


@pytest.mark.release
def test_training_and_inference_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_timm, "GEMM_SIDE", 128)
    monkeypatch.setattr(against_timm, "peak_memory", lambda *args: 2**20)  # tested below
    options = ["--batch", "1", "--repetitions", "2", "--precision", "float32", "--out", str(tmp_path)]
    against_timm.main(["vit_tiny_patch16_224", *options])
    table = (tmp_path / "models.md").read_text()
    assert table == capsys.readouterr().out
    assert "| vit_tiny_patch16_224 | training | float32 | 1 |" in table
    assert "| vit_tiny_patch16_224 | inference | float32 | 1 |" in table


@pytest.mark.release
def test_peak_memory_is_that_of_the_step() -> None:
    """A training step needs at least the gradients of 5.7 M parameters, and not the gigabyte of imports."""
    how = ("float32", 1, "training", False, torch.device("cpu"))
    assert 4 * 5_700_000 < against_timm.peak_memory("vit_tiny_patch16_224", "vitlab", *how) < 2**29


def test_parity_is_written_as_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    against_timm.main(["vit_tiny_patch16_224", "--parity", "--out", str(tmp_path)])
    table = (tmp_path / "parity.md").read_text()
    assert table == capsys.readouterr().out
    row = next(line for line in table.splitlines() if "vit_tiny" in line).split("|")
    assert max(map(float, row[3:5])) < 1e-5
    assert row[5].strip() == row[6].strip() == "5,717,416"  # DeiT-Ti's published count


@pytest.mark.parametrize("name", against_timm.SPEEDRUN)
def test_the_speedruns_sizes_are_the_same_network_in_both(name: str) -> None:
    device = torch.device("cpu")
    ours, theirs = (against_timm.build(name, whose, False, device).eval() for whose in ("vitlab", "timm"))
    ours.load_state_dict(theirs.state_dict())
    images, _ = against_timm.random_batch(name, 2, device)
    assert images.shape == (2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images))
    sizes = load_yaml(EXPERIMENTS / f"speedrun/{name.removeprefix('speedrun_').replace('swinv2', 'swin_v2')}.yaml")
    arguments = sizes["model"]["init_args"]["backbone"]["init_args"]
    _, built = against_timm.SPEEDRUN[name]
    for key in ("patch_size", "embed_dim", "depth", "depths", "window_size"):
        if key in arguments and key in built:
            assert arguments[key] == (list(built[key]) if isinstance(built[key], tuple) else built[key]), key
