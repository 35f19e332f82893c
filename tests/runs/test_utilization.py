"""The FLOPs of a run's first step, and the rates that follow from them."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from vitlab.evaluation.cost import flops_of
from vitlab.evaluation.utilization import Utilization
from vitlab.models import VisionTransformer


def test_a_run_counts_its_first_step_and_logs_the_rate(finished: Path) -> None:
    state = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["Utilisation"]
    model = VisionTransformer(img_size=8, in_chans=1, num_classes=10, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 10
    assert state["flops"] == flops_of(lambda: cross_entropy(model(images), labels).backward())
    table = pd.read_csv(finished / "metrics.csv").dropna(subset="tflops")
    expected = table.images_per_second / 64 * state["flops"] / 1e12
    assert table.tflops.tolist() == pytest.approx(expected.tolist(), rel=0.05)  # the last batch is as full
    assert "mfu" not in table  # no GPU


def test_utilization_is_a_share_of_the_peak() -> None:
    utilization = Utilization()
    assert utilization.rates(3.0) == {}
    utilization.flops = int(2e12)
    assert utilization.rates(3.0) == {"tflops": 6.0}
    utilization.peak = 24e12
    assert utilization.rates(3.0) == {"tflops": 6.0, "mfu": 0.25}
