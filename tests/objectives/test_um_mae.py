"""UM-MAE against the released code's numbers, and what its masks keep."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tests.conftest import edges
from tests.models.small_models import shake
from tests.objectives.small import BACKBONES, STAGES, batch, closed_form, overfit_one_batch, wake
from tests.objectives.small import SMALL as SMALL_IMAGES
from vitlab.commands.dispatch import run
from vitlab.models import Backbone, Features
from vitlab.models.layers import PatchEmbed, classifier
from vitlab.objectives import UMMAE
from vitlab.objectives.masking import compact, uniform_masking
from vitlab.optim import AdamW, WarmupCosine

Write = Callable[..., Path]

SMALL = {"mask_patch_size": 2, "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2}


def um_mae(backbone: Backbone, **kwargs: object) -> UMMAE:
    torch.manual_seed(0)
    arguments: dict = SMALL | kwargs
    return UMMAE(backbone, AdamW(1e-3), WarmupCosine(), **arguments)


# ---- the released code's numbers


class Means(Backbone):
    """Tokens of one pixel, of which the last stage takes the means of 4 × 4."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.num_features, self.in_chans, self.img_size = 10, 8, 3, (16, 16)
        self.patch_embed = PatchEmbed(16, 1, 3, 8, nn.LayerNorm(8, eps=1e-6))
        self.blocks = nn.ModuleList()
        self.norm = nn.LayerNorm(8, eps=1e-6)
        self.head = classifier(8, 10)

    @property
    def stride(self) -> int:
        return 4

    def encode(self, tokens: Float[Tensor, "B *grid D"]) -> Features:
        means = tokens.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).mean(dim=(2, 4)).flatten(1, 2)
        patches = self.norm(means)
        return Features(patches[:, :0], patches)


def test_loss_and_gradients_equal_the_released_codes() -> None:
    """Run once on the released code with means in the place of its Swin's blocks: the choice of one of four, what is
    hidden again, the half-size map, the decoder that takes tokens apart, and normalized targets. The 2 × 2 of a row
    keep patches of the same row, where the orders of both codes agree.
    """
    objective = um_mae(Means()).double()
    for name, parameter in objective.named_parameters():
        one = parameter.ndim == 1 and "norm" in name and "weight" in name
        parameter.data = closed_form(*parameter.shape, a=1.1, b=float(parameter.numel() % 7), s=0.3) + float(one)
    b, i, j = torch.meshgrid(*map(torch.arange, (2, 4, 4)), indexing="ij")
    choice = 2 * ((i + b) % 2) + (i + 3 * j * j + b) % 2
    rows, columns = 2 * torch.arange(4)[:, None] + choice // 2, 2 * torch.arange(4) + choice % 2
    keep = (8 * rows + columns).flatten(1)
    mask = torch.ones(2, 64, dtype=torch.bool).scatter(1, keep, False)
    noise = closed_form(2, 64, a=2.3, b=0.4).abs() + mask  # kept ones first
    again = torch.zeros(2, 64, dtype=torch.bool).scatter(1, noise.argsort(dim=1)[:, 12:16], True)

    objective.draw_masks = lambda *_: (keep, mask, again)  # type: ignore[method-assign]
    loss = objective.loss([closed_form(2, 3, 16, 16, a=0.37, b=0.2)], torch.zeros(2).long())
    loss.backward()
    assert float(loss.detach()) == pytest.approx(4.575948095573574, rel=1e-9)
    weights = objective.decoder.embed.weight, objective.backbone.patch_embed.proj.weight
    sums = [float(weight.grad.abs().sum()) for weight in (objective.mask_token, *weights)]  # type: ignore[union-attr]
    assert sums == pytest.approx([0.1939042962997082, 19.410981475661693, 0.19307401466587343], rel=1e-7)


# ---- masks


def test_one_patch_of_each_four_is_kept_each_as_often() -> None:
    keep, mask = uniform_masking(400, 4, 6)
    kept = ~mask.unflatten(1, (4, 6))
    assert torch.equal(kept.unflatten(2, (3, 2)).unflatten(1, (2, 2)).sum(dim=(2, 4)), torch.ones(400, 2, 3).long())
    assert kept.float().mean(0).sub(0.25).abs().max() < 0.1  # four standard deviations of 400 draws are 0.087
    assert torch.equal(mask.gather(1, keep), torch.zeros_like(keep).bool())


@pytest.mark.parametrize("side", [1, 2])
def test_the_half_size_map_has_the_kept_patches_in_order(side: int) -> None:
    keep, _ = uniform_masking(3, 4, 6)
    numbers = torch.arange(24.0).view(4, 6).repeat_interleave(side, 0).repeat_interleave(side, 1)
    inside = torch.arange(float(side * side)).view(side, side).repeat(4, 6)
    tokens = torch.stack([numbers, inside], dim=-1).expand(3, -1, -1, -1)
    small = compact(tokens, keep, side)
    expected = keep.view(3, 2, 3).repeat_interleave(side, 1).repeat_interleave(side, 2)
    assert torch.equal(small[..., 0].long(), expected)
    assert torch.equal(small[..., 1], inside[: 2 * side, : 3 * side].expand(3, -1, -1))


def test_a_quarter_of_the_kept_patches_is_hidden_again() -> None:
    keep, mask, again = um_mae(BACKBONES["swin"](), mask_patch_size=1).draw_masks(5, torch.device("cpu"))
    assert mask.sum(dim=1).tolist() == [48] * 5
    assert again.sum(dim=1).tolist() == [4] * 5
    assert not (mask & again).any()
    assert keep.shape == (5, 16)


def test_pixels_of_hidden_patches_change_no_prediction() -> None:
    """Neither of those that are not kept, nor of those that are hidden again."""
    objective = um_mae(BACKBONES["swin_v2"]())
    wake(objective)
    (images,), _ = batch(2)
    keep, mask, again = objective.draw_masks(2, torch.device("cpu"))
    hidden = (mask | again).view(2, 1, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    before = objective.reconstruct(images, keep, again)
    torch.testing.assert_close(objective.reconstruct(images + hidden, keep, again), before)
    assert not torch.allclose(objective.reconstruct(images + ~hidden, keep, again), before, atol=1e-4)


# ---- windows


@pytest.mark.parametrize("name", ["swin", "swin_v2"])
def test_windows_are_those_of_a_model_built_for_the_half_size_map(name: str) -> None:
    """As released (models_mae_swin.py, SwinBlock), where the rest of the encoder equals this one to 3e-15."""
    objective = um_mae(BACKBONES[name]()).double()
    shake(objective)
    whole = objective.backbone
    own = {"pretrained_window_sizes": (4, 4)} if name == "swin_v2" else {}
    half = type(whole)(**STAGES, **SMALL_IMAGES | {"img_size": 4, "num_classes": 0}, **own).double()
    state = whole.state_dict()
    for key, table in half.state_dict().items():
        if key.endswith("relative_position_bias_table") and len(table) == 9:  # a window of 2: the offsets -1, 0, 1
            state[key] = state[key].unflatten(0, (7, 7))[2:5, 2:5].flatten(0, 1)
    half.load_state_dict(state)
    images = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(whole.embed(images), half.embed(images), rtol=1e-12, atol=1e-12)
    assert all((attention.keys >= 0).all() for attention in whole.attention_maps(images))  # none is padding


@pytest.mark.parametrize("name", BACKBONES)
def test_evaluation_at_full_size_does_not_change(name: str) -> None:
    backbone, (images,) = BACKBONES[name](), batch()[0]
    backbone.reset_classifier(0)
    wake(backbone)
    before = backbone.embed(images), backbone.embed(images.repeat(1, 1, 2, 2))  # nor on a larger map
    um_mae(backbone)
    assert torch.equal(backbone.embed(images), before[0])
    assert torch.equal(backbone.embed(images.repeat(1, 1, 2, 2)), before[1])


# ---- models


@pytest.mark.parametrize("name", ["vit", *edges("swin", "swin_v2")])
def test_one_batch_is_learned(name: str) -> None:
    objective = um_mae(BACKBONES[name]())
    first = float(objective.loss(*batch(2)).detach())
    assert overfit_one_batch(objective) < 0.5 * first


def test_patches_that_do_not_fit_are_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny({"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}})
    assert run("fit", ["--config", str(path), "--model", "UMMAE", "--model.mask_patch_size", "3"]) == 2
    said = capsys.readouterr().err
    assert "mask_patch_size is 3 px; own patches have 4 px" in said
    assert "Give a multiple of 4 that divides 4, and square images of a multiple of 8 px." in said
    assert not Path("runs").exists()
