"""Integrated gradients: the axioms of Sundararajan et al. 2017, and what is left without the pixels that they name."""

import pytest
import torch
from torch import nn

from vitlab.analysis.relevance import after_blurring, blur, heat_of, in_cells, relevance
from vitlab.models import SwinTransformer, SwinTransformerV2, TimmModel, VisionTransformer

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
