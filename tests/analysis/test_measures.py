"""Size of features, filters and positions: closed forms."""

import math
from contextlib import nullcontext

import pytest
import torch

from tests.objectives.small import BACKBONES
from vitlab.analysis.measures import Amplitude, amplitude, block_outputs, filter_components, position_similarity
from vitlab.models import TimmModel, VisionTransformer
from vitlab.objectives import Supervised
from vitlab.optim import AdamW, WarmupCosine


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_last_blocks_output_is_what_the_final_norm_reads(backbone: str) -> None:
    model = BACKBONES[backbone]().eval()
    images = torch.randn(2, 1, 8, 8)
    outputs = block_outputs(model, images)
    assert len(outputs) == len(model.parameters_by_depth()) - 2
    prefix, patches = model.forward_features(images)
    torch.testing.assert_close(model.norm(outputs[-1]), torch.cat([prefix, patches], dim=1))  # type: ignore[operator]


def test_a_model_without_outputs_of_blocks_is_refused_before_its_training() -> None:
    for model in (TimmModel("resnet18", num_classes=2), BACKBONES["swin"]()):
        objective = Supervised(model, AdamW(1e-3), WarmupCosine())
        refused = pytest.raises(ValueError, match="Amplitude: TimmModel gives no outputs of blocks")
        with refused if isinstance(model, TimmModel) else nullcontext():
            Amplitude().setup(None, objective, "fit")  # type: ignore[arg-type]


def test_amplitude_is_the_variance_of_a_channel() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 40, 2) * torch.tensor([1.0, 3.0]) + torch.tensor([7.0, -7.0])
    assert amplitude(x) == pytest.approx((1 + 9) / 2, rel=0.1)


def test_positions_are_compared_by_their_angle() -> None:
    model = VisionTransformer(img_size=(4, 6), patch_size=2, in_chans=1, embed_dim=2, depth=1, num_heads=1)
    angles = torch.linspace(0, 2, 7)
    model.pos_embed.data[0] = torch.stack([angles.cos(), angles.sin()], dim=-1) * torch.arange(1, 8)[:, None]
    similarity = position_similarity(model)
    assert similarity.shape == (2, 3, 2, 3)
    step = 2 / 6
    assert float(similarity[0, 1, 1, 2]) == pytest.approx(math.cos(4 * step), abs=1e-6)
    assert float(similarity[1, 1, 1, 1]) == pytest.approx(1)


def test_filters_that_vary_in_one_way_have_it_as_their_first_component() -> None:
    torch.manual_seed(0)
    model = BACKBONES["swin"]().eval()
    model.patch_embed = type(model.patch_embed)(8, 2, 3, 16)
    way = torch.nn.functional.normalize(torch.randn(3 * 2 * 2), dim=0)
    model.patch_embed.proj.weight.data = (torch.randn(16, 1) * way + torch.randn(12)).unflatten(1, (3, 2, 2))
    component = filter_components(model, 1)[0].flatten()
    torch.testing.assert_close(component * (component @ way).sign(), way, atol=1e-4, rtol=0)
    assert component[component.abs().argmax()] > 0
