"""LeJEPA against the authors' numbers, and on which models and views it trains."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scipy.integrate import quad
from torch import Tensor

from tests.objectives.small import BACKBONES, closed_form, crops, wake, without_gradient
from vitlab.models import ImageModel, TimmModel
from vitlab.objectives import LeJEPA
from vitlab.objectives.lejepa import sigreg, visreg
from vitlab.optim import AdamW, WarmupCosine

Write = Callable[..., Path]

SMALL = {"hidden_dim": 24, "proj_dim": 6}


def lejepa(backbone: ImageModel | None = None, **kwargs: object) -> LeJEPA:
    torch.manual_seed(0)
    arguments: dict = SMALL | kwargs
    return LeJEPA(backbone or BACKBONES["vit"](), AdamW(1e-3), WarmupCosine(), **arguments)


# ---- the authors' numbers, run once on the code of their MINIMAL.md


def directions(dim: int, draw: int = 1, number: int = 256) -> Tensor:
    """Return what stands in there and here for the n-th drawing of random numbers."""
    return closed_form(dim, number, a=1.3, b=0.1 * draw)


# VISReg's in float32, in which the released code has its quantiles
AUTHORS = {
    sigreg: (0.9798254438900891, [0.08539351433414463, 0.0690241613227991, 0.04965583978377279], 1e-9),
    visreg: (0.29834653147920814, [0.016119446308075984, 0.01692881053746425, 0.014240956699169003], 1e-7),
}


@pytest.mark.parametrize("distance", AUTHORS)
def test_regularizers_and_their_gradients_equal_the_authors(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    expected, gradient, precision = AUTHORS[distance]
    z = closed_form(3, 6, 5, a=0.9, b=0.3, s=1.5).requires_grad_()
    drawn = directions(5)
    value = distance(z, drawn / drawn.norm(dim=0))
    value.backward()
    assert float(value.detach()) == pytest.approx(expected, rel=precision)
    assert z.grad is not None
    assert z.grad.flatten()[:3].tolist() == pytest.approx(gradient, rel=precision)


def test_of_embeddings_that_are_almost_alike_visreg_has_the_larger_gradient() -> None:
    """The authors' point: that of SIGReg vanishes with the spread, that of VISReg's scale does not."""
    drawn = directions(8)
    norms = dict[str, float]()
    for distance in (sigreg, visreg):
        z = (1e-4 * closed_form(1, 64, 8)).requires_grad_()
        distance(z, drawn / drawn.norm(dim=0)).backward()
        assert z.grad is not None
        norms[distance.__name__] = float((z.grad - z.grad.mean(dim=1)).norm())  # what pulls them apart
    assert norms["visreg"] > 100 * norms["sigreg"]


def test_twelve_steps_equal_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loop with AdamW on this ViT and projector, four views of eight images, in float64."""
    objective = lejepa(lamb=0.02).double().train()
    objective.global_views = 4
    for i, parameter in enumerate(objective.parameters()):
        if parameter.ndim > 1:
            parameter.data = closed_form(*parameter.shape, a=1.1, b=float(i), s=parameter[0].numel() ** -0.5)
        elif not bool((parameter == 1).all()):  # a bias, not the weight of a norm
            parameter.data.zero_()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=2e-3, weight_decay=0.05)
    losses, drawings = [], iter(range(1, 13))
    monkeypatch.setattr(torch, "randn", lambda dim, number, **_: directions(dim, next(drawings), number))
    for k in range(12):
        views = closed_form(8, 4, 1, 8, 8, a=0.37, b=float(k)) + 0.5 * closed_form(8, 1, 1, 8, 8, a=0.11, b=float(k))
        loss = objective.loss(list(views.unbind(1)), torch.arange(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert [losses[0], losses[-1]] == pytest.approx([0.22458513214722298, 0.08893832266162913], rel=1e-7)
    total = float(sum(p.detach().square().sum() for p in objective.parameters()))
    assert total == pytest.approx(539.893326698437, rel=1e-7)


# ---- the formulas


def test_the_integral_of_collapsed_embeddings_is_known() -> None:
    """With all embeddings at 0 the characteristic function is 1 everywhere; trapezoids are within a thousandth."""
    exact, _ = quad(lambda t: (1 - math.exp(-t * t / 2)) ** 2 * math.exp(-t * t / 2), -3, 3)
    drawn = directions(4)
    assert float(sigreg(torch.zeros(2, 8, 4).double(), drawn)) == pytest.approx(8 * exact, rel=1e-3)


def test_normal_embeddings_have_a_small_sigreg_and_others_a_large_one() -> None:
    """Of B normal embeddings the expectation is ∫ (1 − exp(−t²)) exp(−t²/2) dt = 1.04, whatever B is."""
    torch.manual_seed(0)
    z, drawn = torch.randn(1, 4096, 8), torch.randn(8, 256)
    drawn = drawn / drawn.norm(dim=0)
    expected, _ = quad(lambda t: (1 - math.exp(-t * t)) * math.exp(-t * t / 2), -3, 3)
    normal = float(sigreg(z, drawn))
    assert normal == pytest.approx(expected, rel=0.1)
    for other in (1.5 * z, z + 0.5, z * torch.tensor([1.0, *[0.0] * 7])):
        assert float(sigreg(other, drawn)) > 10 * normal


def test_small_crops_are_compared_with_the_mean_of_the_large_ones() -> None:
    objective, (views, labels) = lejepa(lamb=0.0).double().eval(), crops()
    views = [view.double() for view in views]
    z = [objective.projector.train()(torch.cat([objective.backbone.embed(view) for view in views]))][0].chunk(4)
    center = (z[0] + z[1]) / 2
    expected = torch.stack([(view - center).square().mean() for view in z]).mean()
    torch.testing.assert_close(objective.loss(views, labels), expected)


# ---- models and data


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_every_parameter_of_a_model_of_timm_learns(name: str) -> None:
    """Convolutional ones; crops of two sizes."""
    objective, (views, labels) = lejepa(TimmModel(name, num_classes=10, in_chans=1)), crops()
    wake(objective)
    objective.loss([view.repeat_interleave(8, -1).repeat_interleave(8, -2) for view in views], labels).backward()
    assert without_gradient(objective) == []
