"""Similarity and size of features, filters and positions: closed forms, and the formula on whole data."""

import math

import pytest
import torch

from tests.objectives.small import BACKBONES
from vitlab.analysis.activations import amplitude, block_outputs
from vitlab.analysis.embeddings import filter_components, position_similarity
from vitlab.analysis.similarity import linear_cka, model_similarity
from vitlab.models import VisionTransformer


def test_features_rotated_and_scaled_are_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(48, 20)
    rotation = torch.linalg.qr(torch.randn(20, 20)).Q
    similarity = linear_cka([([x], [3 * x @ rotation + 5])])
    assert float(similarity) == pytest.approx(1, abs=1e-5)


def test_independent_noise_is_not_alike_even_of_more_features_than_images() -> None:
    """The usual, biased estimate gives p / (p + n) = 0.9 here."""
    torch.manual_seed(0)
    batches = [([torch.randn(16, 160)], [torch.randn(16, 160)]) for _ in range(30)]
    assert abs(float(linear_cka(batches))) < 0.1


def test_cka_of_many_images_is_that_of_feature_space() -> None:
    """‖YᵀX‖² / (‖XᵀX‖ ‖YᵀY‖) of centered features, which is unbiased in the limit of many images."""
    torch.manual_seed(0)
    x = torch.randn(2000, 4) @ torch.randn(4, 4) + 3
    y = x @ torch.randn(4, 3) + torch.randn(2000, 3)
    a, b = x - x.mean(dim=0), y - y.mean(dim=0)
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    assert float(linear_cka([([x], [y])])) == pytest.approx(float(expected), abs=5e-3)
    batches = list(zip(x.split(50), y.split(50), strict=True))
    assert float(linear_cka(([p], [q]) for p, q in batches)) == pytest.approx(float(expected), abs=2e-2)


def test_models_are_compared_block_by_block() -> None:
    vit, swin = BACKBONES["vit"]().eval(), BACKBONES["swin"]().eval()
    images = torch.randn(12, 1, 8, 8)
    assert model_similarity(vit, swin, [(images, images)]).shape == (2, 4)
    torch.testing.assert_close(model_similarity(vit, vit, [(images, images)]).diag().float(), torch.ones(2))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_last_blocks_output_is_what_the_final_norm_reads(backbone: str) -> None:
    model = BACKBONES[backbone]().eval()
    images = torch.randn(2, 1, 8, 8)
    outputs = block_outputs(model, images)
    assert len(outputs) == len(model.parameters_by_depth()) - 2
    prefix, patches = model.forward_features(images)
    torch.testing.assert_close(model.norm(outputs[-1]), torch.cat([prefix, patches], dim=1))  # type: ignore[operator]


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
