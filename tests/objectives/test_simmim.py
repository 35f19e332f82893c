"""SimMIM: the released code's loss, no leak of what is hidden, and settings that cannot work."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.objectives.small import (
    BACKBONES,
    RECIPE,
    batch,
    closed_form,
    wake,
)
from vitlab.commands.dispatch import run
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2, VisionTransformer
from vitlab.objectives import SimMIM
from vitlab.objectives.masking import block_masking, enlarge
from vitlab.objectives.simmim import masked_l1, normalize_locally
from vitlab.optim import AdamW, WarmupCosine


def simmim(backbone: str = "vit", **kwargs: object) -> SimMIM:
    torch.manual_seed(0)
    arguments: dict = {"mask_patch_size": 2} | kwargs
    return SimMIM(BACKBONES[backbone](), AdamW(3e-3), WarmupCosine(), **arguments)


@pytest.mark.parametrize(("window", "expected"), [(None, 0.673406122486), (3, 0.762042106557)])
def test_loss_equals_the_released_codes(window: int | None, expected: float) -> None:
    """Run once on the released code: an encoder's output, its decoder's weights and a mask, all in closed form."""
    latent, weight = closed_form(2, 4, 2, 2, a=0.5), closed_form(48, 4, 1, 1, a=0.3)
    images = closed_form(2, 3, 8, 8, a=0.21)
    mask = enlarge(torch.tensor([[[1, 0], [0, 0]], [[1, 0], [0, 1]]]).bool(), 2)  # of the 4 × 4 patches of 2 px
    pred = F.pixel_shuffle(F.conv2d(latent, weight), 4)
    target = images if window is None else normalize_locally(images, window)
    assert float(masked_l1(pred, target, enlarge(mask, 2))) == pytest.approx(expected, abs=1e-12)


def test_the_window_normalizes_what_it_covers() -> None:
    """By definition: the mean and the unbiased variance of the pixels of the window that are inside the image."""
    images = closed_form(1, 2, 9, 7, a=0.9)
    normalized = normalize_locally(images, 5)
    for row, column in ((4, 3), (0, 0), (8, 2)):
        window = images[0, 1, max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3]
        expected = (images[0, 1, row, column] - window.mean()) / (window.var() + 1e-6).sqrt()
        torch.testing.assert_close(normalized[0, 1, row, column], expected)


def test_a_flat_image_is_normalized_to_zero() -> None:
    assert normalize_locally(torch.full((1, 3, 8, 8), 0.7), 3).abs().max() < 1e-2


@pytest.mark.parametrize("backbone", BACKBONES)
def test_simmim_cannot_see_hidden_pixels(backbone: str) -> None:
    objective = simmim(backbone).eval()
    wake(objective)
    (images,), _ = batch()
    side = 8 // objective.backbone.patch_size
    mask = block_masking(8, side, side, objective.block, 0.6)
    hidden = enlarge(mask, objective.backbone.patch_size)[:, None]
    other = torch.where(hidden, torch.randn_like(images), images)
    assert not torch.equal(images, other)
    assert torch.equal(objective.reconstruct(images, mask), objective.reconstruct(other, mask))
    seen = torch.where(hidden, images, torch.randn_like(images))
    assert not torch.equal(objective.reconstruct(images, mask), objective.reconstruct(seen, mask))


@pytest.mark.parametrize("loss_on", ["masked", "all"])
def test_the_loss_is_the_mean_over_the_chosen_pixels(loss_on: str) -> None:
    objective = simmim(loss_on=loss_on).eval()
    (images,), labels = batch()
    torch.manual_seed(1)
    loss = objective.loss([images], labels).detach()
    torch.manual_seed(1)
    mask = objective.draw_mask(images)
    error = (objective.reconstruct(images, mask) - images).abs()
    chosen = error[enlarge(mask, 2)[:, None]] if loss_on == "masked" else error
    assert float(loss) == pytest.approx(float(chosen.mean().detach()), rel=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_token_predicts_the_pixels_of_its_place(backbone: str) -> None:
    """The prediction where the last map's token (row, column) stands depends on that token alone."""
    objective = simmim(backbone)
    stride = objective.backbone.stride
    latent = torch.zeros(1, objective.backbone.num_features, 8 // stride, 8 // stride)
    latent[0, :, 1, 0] = 1.0
    with torch.no_grad():
        changed = (objective.decoder(latent) != objective.decoder(torch.zeros_like(latent)))[0, 0]
    rows, columns = changed.nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (stride, 2 * stride - 1)
    assert (int(columns.min()), int(columns.max())) == (0, stride - 1)


def test_positions_are_spared_from_decay_if_asked() -> None:
    spared = simmim("swin_v2", no_decay_positions=True).no_weight_decay()
    assert "backbone.layers.0.blocks.0.attn.logit_scale" in spared


# ---- what cannot work


STAGES = {"patch_size": 2, "window_size": 4}
WIDE = VisionTransformer(img_size=(16, 24), patch_size=4, embed_dim=16, depth=1, num_heads=2)


@pytest.mark.parametrize(
    ("backbone", "settings", "said"),
    [
        # blocks that hide the whole image, and that do not fit the patches
        (SwinTransformer(32, **STAGES, depths=(1, 1), num_heads=(2, 2)), {}, r"mask_patch_size 32 at mask_ratio 0\.6"),
        (WIDE, {"mask_patch_size": 6}, "mask_patch_size 6 "),
        (WIDE, {"mask_patch_size": 2}, "mask_patch_size 2 "),
        (BACKBONES["vit"](), {"mask_patch_size": 2, "norm_targets": 4}, "norm_targets is 4"),
        (
            SwinTransformerV2(12, **STAGES, depths=(1, 1, 1), num_heads=(2, 2, 2)),
            {"mask_patch_size": 2},
            "does not fit 12 × 12 px: .* as do tokens of 8 px",
        ),
        # the norm of its tokens comes after the pooling
        (
            VisionTransformer(8, 2, 1, embed_dim=16, depth=1, num_heads=2, global_pool="avg"),
            {"mask_patch_size": 2},
            "global_pool: token",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_hidden_or_predicted_is_refused(backbone: Backbone, settings: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SimMIM(backbone, *RECIPE, **settings)


def test_patches_that_overlap_are_refused() -> None:
    """A token of a kernel wider than its stride sees its neighbors' pixels, hidden ones too."""
    backbone = BACKBONES["vit"]()
    backbone.patch_embed.proj = nn.Conv2d(1, 32, kernel_size=3, stride=2, padding=1)
    with pytest.raises(ValueError, match="VisionTransformer: pixels of a hidden patch reach neighboring tokens"):
        SimMIM(backbone, AdamW(1e-3), WarmupCosine(), mask_patch_size=4)


def test_images_that_grow_are_refused_before_training(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}
    grow = {"image_size": 16, "grow": {"start": 8, "step": 4}}
    assert run("fit", ["--config", str(tiny({"model": model, "data": {"init_args": grow}}))]) == 2
    assert "SimMIM hides patches of images of one size" in capsys.readouterr().err
