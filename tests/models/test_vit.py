"""ViT and DeiT: subsets of patches, positions, the two heads."""

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled

from tests.models.small_models import TIMM, VIT, images, relative_error, shake
from vitlab.models import VisionTransformer
from vitlab.models.layers import attention, resample_grid, sincos_table


def build(**changes: object) -> VisionTransformer:
    return shake(VisionTransformer(**VIT | changes)).eval()  # type: ignore[arg-type, return-value]


def test_a_subset_of_patches_is_encoded_as_if_the_others_did_not_exist() -> None:
    model = build()
    tokens = model.add_pos_embed(model.patch_embed(images(model))).flatten(1, 2)  # (2, 16, 24)
    keep = torch.tensor([3, 0, 9])
    few = model.encode(tokens[:, keep])
    assert few.patches.shape == (2, 3, 24)
    other = tokens.clone()
    other[:, [i for i in range(16) if i not in keep]] = torch.nan
    torch.testing.assert_close(model.encode(other[:, keep]).patches, few.patches)


def test_patches_carry_their_positions_with_them() -> None:
    # After step 2 the order is of no matter to the blocks: MAE may shuffle.
    model = build()
    tokens = model.add_pos_embed(model.patch_embed(images(model))).flatten(1, 2)
    order = torch.randperm(16)
    features, shuffled = model.encode(tokens), model.encode(tokens[:, order])
    torch.testing.assert_close(shuffled.patches, features.patches[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shuffled.prefix, features.prefix, atol=1e-5, rtol=1e-4)


def test_sincos_positions_are_mae_s() -> None:
    # Row 0, column 1 of the official function at width 16 on a 3 × 3 grid: the first half encodes the column.
    expected = [0.841471, 0.099833, 0.01, 0.001, 0.540302, 0.995004, 0.99995, 1, 0, 0, 0, 0, 1, 1, 1, 1]
    table = sincos_table(16, 3, 3)
    torch.testing.assert_close(table[1], torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_fixed_positions_are_not_trained_and_the_class_token_has_none() -> None:
    model = VisionTransformer(**VIT, fixed_pos_embed=True)
    assert not model.pos_embed.requires_grad
    assert not model.pos_embed[0, 0].any()
    assert torch.equal(model.pos_embed[0, 1:], sincos_table(24, 4, 4))
    with pytest.raises(ValueError, match="divisible by 4"):
        VisionTransformer(**VIT | {"embed_dim": 22}, fixed_pos_embed=True)


def test_resampled_positions_keep_the_corners_apart() -> None:
    ramp = torch.linspace(0, 1, 4).view(4, 1, 1).expand(4, 4, 1)
    big = resample_grid(ramp, 8, 8)
    assert big.shape == (8, 8, 1)
    assert (big.diff(dim=0) >= -1e-6).all()
    assert big.diff(dim=1).abs().max() < 1e-5


def test_distilled_logits_are_the_mean_of_both_heads() -> None:
    model = build(distilled=True)
    features = model.forward_features(images(model))
    cls, dist = model.forward_heads(features)
    torch.testing.assert_close(model.forward_head(features), (cls + dist) / 2)
    torch.testing.assert_close(cls, model.head(features.prefix[:, 0]))
    torch.testing.assert_close(dist, model.head_dist(features.prefix[:, 1]))  # type: ignore[misc]


def test_distilled_training_returns_the_pair_in_training_only_as_timm_does() -> None:
    theirs = shake(VisionTransformerDistilled(**VIT))
    model = build(distilled=True)
    model.load_state_dict(theirs.state_dict())
    x = images(model)
    for m in (model, theirs):
        m.set_distilled_training(True)
    for ours, expected in zip(model.train()(x), theirs.train()(x), strict=True):
        torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(model.eval()(x), theirs.eval()(x))


def test_a_distilled_model_pools_its_tokens_only() -> None:
    with pytest.raises(ValueError, match="global_pool"):
        VisionTransformer(**VIT, distilled=True, global_pool="avg")
    with pytest.raises(ValueError, match="global_pool"):
        VisionTransformer(**VIT, distilled=True).reset_classifier(3, "avg")


def test_widths_and_heads_that_do_not_fit_name_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"24 .* 5 heads.*20 or 25.*\[3, 4, 6\]"):
        VisionTransformer(**VIT | {"num_heads": 5})


def test_a_vit_has_blocks() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        VisionTransformer(**VIT | {"depth": 0})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("trained", [True, False])
def test_attention_is_its_equation_whatever_kernel_runs(dtype: torch.dtype, trained: bool) -> None:
    q, k, v = (torch.randn(2, 3, 7, 4, dtype=dtype).requires_grad_(trained) for _ in range(3))
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = (exact[0] @ exact[1].mT / 2).softmax(dim=-1) @ exact[2]  # √d = 2
    result = attention(q, k, v, dropout=0.0)
    assert result.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(result.double(), expected, atol=tolerance, rtol=tolerance)
    if trained:
        result.sum().backward()
        expected.sum().backward()
        for ours, x in zip((q, k, v), exact, strict=True):
            torch.testing.assert_close(ours.grad.double(), x.grad, atol=2 * tolerance, rtol=tolerance)


def test_depth_counts_embedding_blocks_and_head() -> None:
    # MAE's layer decay: ViT-B has 12 blocks and 14 depths (main_finetune's lr_decay.py).
    assert len(build().parameters_by_depth()) == VIT["depth"] + 2


def test_a_model_rebuilt_for_another_size_is_timms_rebuilt() -> None:
    theirs = shake(TIMM["vit"]()).eval()
    model = build()
    model.load_state_dict(theirs.state_dict())
    for size in [(24, 32), 12]:
        model.set_input_size(size)
        theirs.set_input_size(size if isinstance(size, tuple) else (size, size))  # type: ignore[operator]
        assert model.pos_embed.shape == theirs.pos_embed.shape
        x = images(model)
        assert relative_error(model(x), theirs(x)) < 1e-5
