import pytest
import torch
from torch import Tensor, nn

from vitlab.evaluation.cost import count_flops, count_flops_in_training, device_for


def test_fused_attention_is_counted_like_its_products() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    # Two products of (N × D) by (D × N), two FLOPs for each multiplication with its addition; H heads.
    heads, tokens, width = 3, 16, 8
    assert count_flops(Attention(), torch.randn(1, heads, tokens, width)) == 2 * 2 * heads * tokens * tokens * width


def test_a_model_that_averages_views_at_test_time_takes_more_flops_than_in_training() -> None:
    class Averaging(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            shifts = (0,) if self.training else (-1, 0, 1)
            return sum((super(Averaging, self).forward(x.roll(shift, 1)) for shift in shifts), torch.zeros(()))

    model, images = Averaging(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)), torch.randn(4, 8)
    assert count_flops_in_training(model, images) == 2 * 8 * 8
    assert count_flops(model, images[:1]) == 3 * 2 * 8 * 8


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_without_a_gpu_everything_is_measured_on_the_cpu() -> None:
    assert device_for("auto") == device_for("gpu") == device_for("cpu") == torch.device("cpu")
