"""The average of weights: expectations are the defining recursion, and traps of averaging buffers."""

import pytest
import torch
from torch import nn

from vitlab.objectives.ema import Ema, WeightAverage


class WithIndex(nn.Module):
    """A weight, a running mean and an integer table, as Swin's `relative_position_index` is one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("index", torch.arange(2401) % 169)


@pytest.mark.parametrize("decay", [0.9, 0.0])  # without momentum, a copy
def test_the_average_follows_its_definition(decay: float) -> None:
    model = WithIndex()
    average = WeightAverage(model)
    expected = torch.zeros(3)
    for step in range(5):
        with torch.no_grad():
            model.weight.fill_(step)
        average.update(model, decay)
        expected = decay * expected + (1 - decay) * step
    torch.testing.assert_close(average.module.weight, expected)


@pytest.mark.parametrize("decay", [0.9, 0.996, 0.9999, 0.99999])
def test_integer_tables_stay_exact(decay: float) -> None:
    # Lightning's EMAWeightAveraging averages int64 buffers and loses up to a sixth of the entries at these decays.
    model = WithIndex()
    average = WeightAverage(model)
    for _ in range(50):
        average.update(model, decay)
    assert torch.equal(average.module.index, model.index)


def test_running_statistics_are_copied() -> None:
    model = WithIndex()
    average = WeightAverage(model)
    model.running_mean.fill_(2.0)
    average.update(model, decay=0.99)
    assert torch.equal(average.module.running_mean, model.running_mean)


def test_the_average_takes_no_gradient_and_shares_no_memory() -> None:
    model = WithIndex()
    average = WeightAverage(model)
    assert not any(p.requires_grad for p in average.parameters())
    assert average.module.weight.data_ptr() != model.weight.data_ptr()


def test_warmup_starts_fast_and_ends_at_the_decay() -> None:
    ema = Ema(decay=0.999)
    assert ema.at(1) == 2 / 11
    assert ema.at(1_000_000) == 0.999
    assert Ema(decay=0.999, warmup=False).at(1) == 0.999
