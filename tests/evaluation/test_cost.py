import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vitlab.evaluation.cost import Cost, CostMeter, count_flops, device_for, device_name
from vitlab.models import ImageModel


class TwoLayers(ImageModel):
    """3·8·8 inputs, 32 hidden, 5 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.img_size, self.in_chans = 5, 32, (8, 8), 3
        self.hidden, self.head = nn.Linear(3 * 8 * 8, 32), nn.Linear(32, 5)

    def embed(self, images: Tensor) -> Tensor:
        return self.hidden(images.flatten(1)).relu()


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_parameters_and_flops_by_hand_and_the_rest_plausible(tmp_path: Path) -> None:
    meter = CostMeter(TwoLayers(), (3, 8, 8), 16, torch.device("cpu"))
    for _ in range(3):
        meter.take_turn()
    cost = meter.cost()
    assert cost.parameters == 192 * 32 + 32 + 32 * 5 + 5
    assert cost.flops == 2 * (192 * 32 + 32 * 5)  # of one image, a multiplication with its addition counted as two
    assert min(cost.inference_images_per_second, cost.train_images_per_second) > 0
    # Pages that come and go are more than so small a model; test_peers.py holds a peak against its model.
    assert min(cost.train_peak_bytes, cost.inference_peak_bytes) >= 0
    assert cost.repetitions >= 3
    for speed, turns in (
        (cost.train_images_per_second, cost.train_range),
        (cost.inference_images_per_second, cost.inference_range),
    ):
        assert turns is not None
        assert turns[0] <= speed <= turns[1]
    assert cost.threads == 1
    assert cost.device == device_name(torch.device("cpu"))

    cost.write(tmp_path / "cost.json")
    assert Cost.read(tmp_path / "cost.json") == cost
    content = json.loads((tmp_path / "cost.json").read_text())
    for key in ("train_range", "inference_range", "others", "cores"):
        del content[key]
    (tmp_path / "cost.json").write_text(json.dumps(content))  # an older version's
    assert Cost.read(tmp_path / "cost.json") == dataclasses.replace(
        cost, train_range=None, inference_range=None, others=None, cores=None
    )


def test_fused_attention_is_counted_like_its_products() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    # Two products of (N × D) by (D × N), two FLOPs for each multiplication with its addition; H heads.
    heads, tokens, width = 3, 16, 8
    assert count_flops(Attention(), torch.randn(1, heads, tokens, width)) == 2 * 2 * heads * tokens * tokens * width


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks what happens without a GPU")
def test_without_a_gpu_everything_is_measured_on_the_cpu() -> None:
    assert device_for("auto") == device_for("gpu") == device_for("cpu") == torch.device("cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_memory_holds_at_least_weights_gradients_and_moments() -> None:
    meter = CostMeter(TwoLayers(), (3, 8, 8), 16, device_for("auto"))
    meter.take_turn()
    cost = meter.cost()
    assert cost.train_peak_bytes >= 4 * 4 * cost.parameters
