"""Size of features, filters and positions: closed forms."""

import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from tests.objectives.small import BACKBONES
from vitlab.analysis.measures import Amplitude, amplitude, block_outputs, filter_components, position_similarity
from vitlab.analysis.relevance import after_blurring, blur, heat_of, in_cells, relevance
from vitlab.models import SwinTransformer, SwinTransformerV2, TimmModel, VisionTransformer
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


# Integrated gradients: the axioms of Sundararajan et al. 2017


SMALL: dict = {"img_size": 16, "patch_size": 4, "num_classes": 5, "embed_dim": 16}
MODELS = {
    "vit": lambda: VisionTransformer(**SMALL, depth=2, num_heads=2),
    "swin": lambda: SwinTransformer(**SMALL, depths=(1, 1), num_heads=(2, 2), window_size=2),
    "swin_v2": lambda: SwinTransformerV2(**SMALL, depths=(1, 1), num_heads=(2, 2), window_size=2),
    "resnet": lambda: TimmModel("resnet10t", num_classes=5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_relevance_sums_to_what_the_image_adds_to_the_log_probability(name: str) -> None:
    """Completeness, proposition 1: exact in the limit of many steps."""
    torch.manual_seed(0)
    side = 64 if name == "resnet" else 16
    model, images, classes = (
        MODELS[name]().double().eval(),
        torch.randn(3, 3, side, side).double(),
        torch.tensor([0, 3, 4]),
    )
    added = [model(x).log_softmax(1).gather(1, classes[:, None])[:, 0] for x in (images, blur(images))]
    total = relevance(model, images, classes, steps=200).sum(dim=(1, 2))
    torch.testing.assert_close(total, (added[0] - added[1]).detach(), rtol=0.02, atol=1e-3)


def test_relevance_of_a_linear_model_is_its_terms() -> None:
    """With the logits (w·x, 0) near 0: w ⊙ (x − x̄) times the slope of log σ."""
    torch.manual_seed(0)
    weights, images = 1e-4 * torch.randn(3 * 64).double(), torch.randn(2, 3, 8, 8).double()

    class Linear(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            score = x.flatten(1) @ weights
            return torch.stack([score, torch.zeros_like(score)], dim=1)

    expected = 0.5 * (weights.view(3, 8, 8) * (images - blur(images))).sum(dim=1)  # 1/2: the slope of log σ at 0
    torch.testing.assert_close(relevance(Linear(), images, torch.tensor([0, 0])), expected, rtol=0.01, atol=1e-9)


class Corner(nn.Module):
    """Answers by the brightness of one corner alone: class 1 where the upper left quarter is bright."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = x[:, 0, :4, :4].mean(dim=(1, 2))
        return torch.stack([-score, score], dim=1)


def test_the_pixels_that_are_named_are_those_that_matter() -> None:
    torch.manual_seed(0)
    images = 0.1 * torch.randn(8, 1, 16, 16)
    images[:, :, :4, :4] += 1.0
    explained = heat_of(Corner(), images, ["dark", "bright"])
    heat = in_cells(relevance(Corner(), images, torch.tensor(explained.answers)))
    assert heat[:, 2:].abs().max() < 1e-6
    assert heat[:, :, 2:].abs().max() < 1e-6
    assert explained.maps == pytest.approx(heat.clamp(min=0).numpy())
    before = Corner()(images).softmax(1).max(1).values
    left = after_blurring(Corner(), images, torch.tensor(explained.answers), heat)
    assert (before - left > 0.05).all()
    assert explained.captions[0] == f"bright  {before[0]:.0%} → {left[0]:.0%}"
    elsewhere = torch.zeros_like(heat)
    elsewhere[:, 4:] = 1 + torch.rand(8, 4, 8)
    torch.testing.assert_close(after_blurring(Corner(), images, torch.ones(8).long(), elsewhere), before)


def test_cells_are_means_of_pixels() -> None:
    heat = torch.arange(16.0).view(1, 4, 4)
    assert in_cells(heat, 2).tolist() == [[[2.5, 4.5], [10.5, 12.5]]]
