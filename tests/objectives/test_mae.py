"""MAE: the released code's loss, sizes and positions, no leak of what is hidden, and settings that cannot work."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from tests.objectives.small import BACKBONES, batch, closed_form, without_gradient
from vitlab.commands.dispatch import run
from vitlab.models import VisionTransformer, vit_base_patch16_224, vit_large_patch16_224
from vitlab.objectives import MAE
from vitlab.objectives.mae import masked_mse, normalize_patches
from vitlab.objectives.masking import patchify, random_masking, unpatchify
from vitlab.optim import AdamW, WarmupCosine

DECODER = {"decoder_embed_dim": 32, "decoder_depth": 2, "decoder_num_heads": 2}


def mae(**kwargs: object) -> MAE:
    torch.manual_seed(0)
    arguments: dict = DECODER | kwargs
    return MAE(BACKBONES["vit"](), AdamW(3e-3), WarmupCosine(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("normalize", "expected"), [(False, 0.962357258170), (True, 1.41524455311)])
def test_loss_equals_the_released_codes(normalize: bool, expected: float) -> None:
    """Run once on the released code, on inputs in closed form."""
    target = patchify(closed_form(2, 3, 8, 8), 4)
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 1]]).bool()
    loss = masked_mse(closed_form(2, 4, 48, a=0.9), normalize_patches(target) if normalize else target, mask)
    assert float(loss) == pytest.approx(expected, abs=1e-11)


def test_positions_of_the_decoder_are_maes() -> None:
    """Row (0, 1) of a 3 × 3 grid at width 16, from the released code: the column is in the first half."""
    objective = MAE(
        VisionTransformer(img_size=12, patch_size=4, embed_dim=16, depth=1, num_heads=2),
        AdamW(1e-3),
        WarmupCosine(),
        decoder_embed_dim=16,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    expected = [0.841471, 0.099833, 0.01, 0.001, 0.540302, 0.995004, 0.99995, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    torch.testing.assert_close(objective.decoder.pos_embed[1], torch.tensor(expected), atol=1e-6, rtol=0)


def test_vit_base_has_the_published_number_of_parameters() -> None:
    """111,655,680 that are trained, counted on the released mae_vit_base_patch16."""
    with torch.device("meta"):
        backbone = vit_base_patch16_224(fixed_pos_embed=True)
        objective = MAE(backbone, AdamW(1.5e-4), WarmupCosine())
    assert sum(p.numel() for p in objective.parameters() if p.requires_grad) == 111_655_680


def test_patch_embedding_and_class_token_start_as_released() -> None:
    """Uniform within √(6 / (D + V)), the patch embedding taken as a linear layer; normal with σ = 0.02."""
    backbone = vit_base_patch16_224(depth=1)
    MAE(backbone, AdamW(1e-3), WarmupCosine(), decoder_depth=0, released_init=True)
    bound = (6 / (768 + 768)) ** 0.5
    assert float(backbone.patch_embed.proj.weight.data.abs().max()) == pytest.approx(bound, rel=1e-3)
    assert float(backbone.cls_token.data.std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("mask_tokens", ["decoder", "encoder"])
def test_mae_cannot_see_hidden_patches(mask_tokens: str) -> None:
    objective = mae(mask_tokens=mask_tokens).eval()
    (images,), _ = batch()
    keep, mask = random_masking(8, 16, 0.75)
    hidden = unpatchify(mask[..., None].expand(-1, -1, 4), 2, 4, 4)
    other = torch.where(hidden, torch.randn_like(images), images)
    assert not torch.equal(images, other)
    assert torch.equal(objective.reconstruct(images, keep), objective.reconstruct(other, keep))
    seen = torch.where(hidden, images, torch.randn_like(images))
    assert not torch.equal(objective.reconstruct(images, keep), objective.reconstruct(seen, keep))


def test_an_encoder_with_mask_tokens_sees_all_patches_the_hidden_ones_as_one_token_at_their_places() -> None:
    objective = mae(mask_tokens="encoder").eval()
    assert objective.decoder.mask_token is None
    inputs: list[torch.Tensor] = []
    objective.backbone.blocks[0].register_forward_hook(lambda module, args, output: inputs.append(args[0]))
    (images,), _ = batch(2)
    keep, mask = random_masking(2, 16, 0.75)
    objective.reconstruct(images, keep)
    backbone = objective.backbone
    tokens = backbone.patch_embed(images).flatten(1, 2)  # (B, N, D)
    tokens[mask] = objective.mask_token[0]
    expected = backbone.add_pos_embed(tokens.unflatten(1, (4, 4))).flatten(1, 2)
    torch.testing.assert_close(inputs[0][:, 1:], expected)


def test_the_loss_is_the_mean_over_the_chosen_patches() -> None:
    values = {}
    for loss_on in ("masked", "all"):
        objective = mae(loss_on=loss_on).eval()
        (images,), labels = batch()
        torch.manual_seed(1)
        loss = objective.loss([images], labels).detach()
        torch.manual_seed(1)
        keep, mask = random_masking(8, 16, 0.75)
        error = (objective.reconstruct(images, keep) - normalize_patches(patchify(images, 2))).square()  # (B, N, V)
        values[loss_on] = float(loss)
        assert float(loss) == pytest.approx(
            float((error[mask] if loss_on == "masked" else error).mean().detach()), rel=1e-6
        )
    assert values["masked"] != values["all"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "decoder", "most"),
    [
        # The decoder sees all patches, whatever the encoder: that of the paper is half of a ViT-B's cost.
        (lambda: vit_large_patch16_224(fixed_pos_embed=True), (512, 8, 16), 0.45),
        (lambda: vit_base_patch16_224(fixed_pos_embed=True), (512, 8, 16), 0.56),
        (lambda: VisionTransformer(32, 4, embed_dim=192, num_heads=3), (96, 4, 3), 0.45),  # experiments/mae_vit.yaml
    ],
    ids=["vit_large", "vit_base", "mae_vit.yaml"],
)
def test_a_step_costs_a_fraction_of_one_that_encodes_all_patches(
    build: Callable[[], VisionTransformer], decoder: tuple[int, int, int], most: float
) -> None:
    with torch.device("meta"):
        objective = MAE(build(), AdamW(1e-3), WarmupCosine(), 0.75, True, *decoder)
        images = torch.empty(2, 3, *objective.backbone.img_size)
        steps = (lambda: objective.loss([images], torch.zeros(2).long()), lambda: objective.backbone(images).sum())
        flops = []
        for step in steps:
            with FlopCounterMode(display=False) as counter:
                step().backward()
            flops.append(counter.get_total_flops())
    assert flops[0] / flops[1] < most


def test_a_visible_patch_reaches_the_decoder_at_its_own_place() -> None:
    """With a decoder of no blocks, a prediction depends on its own patch alone."""
    objective = mae(decoder_depth=0).eval()
    (images,), _ = batch(1)
    other = images.clone()
    other[..., 4:6, 2:4] += 1.0  # patch (2, 1) of 4 × 4, number 9
    keep = torch.tensor([[2, 9, 11]])
    tokens = [objective.backbone.patch_embed(x).flatten(1, 2) for x in (images, other)]
    assert [int(i) for i in (tokens[0] != tokens[1]).any(-1)[0].nonzero()] == [9]
    objective.backbone.blocks = torch.nn.ModuleList()  # no token sees another
    changed = (objective.reconstruct(images, keep) != objective.reconstruct(other, keep)).any(-1)[0]
    assert [int(i) for i in changed.nonzero()] == [9]


def test_mask_tokens_of_the_encoder_get_a_gradient() -> None:
    objective = mae(mask_tokens="encoder")
    objective.loss(*batch()).backward()
    assert without_gradient(objective) == []


def test_a_decoder_that_does_not_divide_among_its_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="decoder_embed_dim of 32 does not divide among 3 heads"):
        mae(decoder_num_heads=3)


def test_a_share_of_patches_that_another_method_hides_is_not_taken_over(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """MAE publishes 0.75, SimMIM 0.6; what both leave to the user, like the optimizer, stays."""
    arguments = {"mask_ratio": 0.5, "mask_patch_size": 4, "loss_on": "all"}
    path = tiny({"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": arguments}})
    assert run("fit", ["--config", str(path), "--model", "MAE", "--print_config"]) == 0
    printed = capsys.readouterr()
    model = yaml.safe_load(printed.out)["model"]["init_args"]
    assert (model["mask_ratio"], model["loss_on"], model["optimizer"]["init_args"]["lr"]) == (0.75, "all", 1e-3)
    assert "kept backbone, loss_on, optimizer, schedule; dropped mask_patch_size=4, mask_ratio=0.5." in printed.err
