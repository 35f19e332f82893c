"""Swin and Swin v2: what the papers say of their blocks, and the steps between the two."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from tests.models.small_models import SMALL, SWIN, images, relative_error, shake
from vitlab.models import Backbone, SwinTransformer, SwinTransformerV2
from vitlab.models.swin import CosineAttention, PreNormBlock
from vitlab.models.swin_v2 import ContinuousBias, ResPostNormBlock
from vitlab.models.weights import load_weights, save_weights
from vitlab.models.windows import PositionBias

RELATIVE = ("table", "linear", "log")


def test_blocks_of_swin_v2_start_as_the_identity() -> None:
    # "Res-post-norm" with norms initialized to 0 (official swin_transformer_v2.py, _init_respostnorm).
    model = SwinTransformerV2(**SWIN, init_values=0.0)
    for stage in model.layers:
        for block in stage.blocks:  # type: ignore[union-attr]
            assert not any(p.any() for p in (*block.norm1.parameters(), *block.norm2.parameters()))
            x = torch.randn(1, *block.size, block.norm1.normalized_shape[0])
            assert torch.equal(block(x), x)


def test_only_narrow_swin_v2s_let_their_branches_start_with_the_rest() -> None:
    # Below the narrowest published width, zeros would cost a short training hundreds of steps (docs/results.md).
    sizes = {"img_size": 32, "window_size": 4, "depths": (2,), "num_heads": (3,)}
    for width, gain in ((96, 0.0), (48, 0.5)):
        for block in SwinTransformerV2(**sizes, embed_dim=width).blocks:  # type: ignore[arg-type]
            for norm in (block.norm1, block.norm2):
                assert (norm.weight == gain).all()
                assert not norm.bias.any()


def test_temperature_never_falls_below_a_hundredth() -> None:
    model = shake(SwinTransformerV2(**SWIN)).eval()
    x = images(model)
    scales = [m.logit_scale for m in model.modules() if hasattr(m, "logit_scale")]
    with torch.no_grad():
        for scale in scales:
            scale.fill_(torch.log(torch.tensor(100.0)))
        at_limit = model(x)
        for scale in scales:
            scale.fill_(20.0)
    torch.testing.assert_close(model(x), at_limit)


def test_at_a_low_initial_scale_only_positions_tell_keys_apart() -> None:
    """|s cos(q, k)| is at most s: weights of a query differ from the softmax of the bias by factors of at most e^2s."""
    attn = SwinTransformerV2(**SWIN, init_scale=0.01).blocks[0].attn
    weights = attn.attention_probs(torch.randn(1, 4, 4, 8), None)
    torch.testing.assert_close(weights[0], attn.bias().softmax(dim=-1), rtol=0.021, atol=0)


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_patch_merging_has_the_depth_of_the_block_before_it(family: str) -> None:
    # Official layer ids (optimizer.py:104-117): blocks 1 … 6, merging of stage i with its last block.
    model = SMALL[family]()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [{names[id(p)] for p in group} for group in model.parameters_by_depth()]
    assert len(groups) == 1 + 6 + 1
    for group, merging in ((2, "layers.1.downsample."), (4, "layers.2.downsample.")):
        assert {name for name in names.values() if name.startswith(merging)} <= groups[group]
    assert all(name.startswith(("norm.", "head.")) for name in groups[-1])


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_without_shifts_no_token_of_a_stage_sees_another_window(family: str) -> None:
    model = shake(SMALL[family](depths=(4,), num_heads=(1,), shift=False)).eval()
    assert isinstance(model, Backbone)
    tokens = torch.randn(1, 16, 16, 8, requires_grad=True)
    model.encode(tokens).patches.unflatten(1, (16, 16))[0, 3, 3].sum().backward()
    assert tokens.grad is not None
    seen = tokens.grad[0].abs().sum(dim=-1) > 0
    assert seen[:4, :4].all()
    assert seen.sum() == 16
    shifted = SMALL[family](depths=(4,), num_heads=(1,))
    assert [block.shift for block in shifted.blocks] == [(0, 0), (2, 2)] * 2  # type: ignore[union-attr]
    shifted.load_state_dict(model.state_dict())  # the shift has no weights
    assert not torch.allclose(shifted.eval()(images(model)), model(images(model)))


STEPS: list[dict[str, Any]] = [
    {"block": PreNormBlock},
    {"block": ResPostNormBlock},
    {"block": ResPostNormBlock, "attention": CosineAttention},
    {"attention": CosineAttention},
]


@pytest.mark.parametrize("step", STEPS, ids=str)
def test_every_step_from_swin_to_swin_v2_trains(step: dict[str, Any]) -> None:
    model = SwinTransformer(**SWIN, **step)
    listed = [id(p) for group in model.parameters_by_depth() for p in group]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    shake(model)
    model(images(model)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_swin_with_both_steps_is_swin_v2_with_a_table() -> None:
    # The paper's path: Swin + res-post-norm + cosine attention is Swin v2 before its continuous bias. What remains
    # different is Swin's merging, so one stage is compared, with a bias that k does not have.
    sizes = {**SWIN, "depths": (2,), "num_heads": (2,), "qkv_bias": False}
    ours = shake(SwinTransformer(**sizes, block=ResPostNormBlock, attention=CosineAttention)).eval()
    v2 = SwinTransformerV2(**sizes, position_bias="table").eval()
    renamed = {name.replace("attn.relative", "attn.cpb_mlp.relative"): p for name, p in ours.state_dict().items()}
    v2.load_state_dict(renamed)
    x = images(ours)
    assert relative_error(v2(x), ours(x)) < 1e-6


KINDS = [
    *((SwinTransformer, kind) for kind in ("none", "absolute", "table")),
    *((SwinTransformerV2, kind) for kind in get_args(PositionBias)),
]


@pytest.mark.parametrize(("build", "kind"), KINDS)
def test_every_kind_of_position_bias_trains_and_changes_window(build: Any, kind: str) -> None:
    model = shake(build(**SWIN, position_bias=kind))
    model(images(model)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert (model.pos_embed is not None) == (kind == "absolute")
    assert any("cpb_mlp" in n or "bias_table" in n for n, _ in model.named_parameters()) == (kind in RELATIVE)
    undecayed = {n for n, _ in model.named_parameters() if "pos_embed" in n or "cpb_mlp" in n or "bias_table" in n}
    assert undecayed <= model.no_weight_decay()
    model.set_input_size(64)
    assert model.windows == [(8, 8)] * 3
    assert model(images(model)).shape == (2, 5)


@pytest.mark.parametrize(("build", "kind"), KINDS)
def test_an_attention_without_positions_gives_what_it_gives_to_tokens_in_another_order(build: Any, kind: str) -> None:
    """One window on the whole map, one block: only a relative bias tells the tokens of `encode` apart."""
    one = {"img_size": 8, "depths": (1,), "num_heads": (2,)}
    model = shake(build(**{**SWIN, **one}, position_bias=kind)).eval()
    tokens, order = torch.randn(2, 4, 4, 8), torch.randperm(16)
    shuffled = tokens.flatten(1, 2)[:, order].unflatten(1, (4, 4))
    same = torch.allclose(model.encode(shuffled).patches, model.encode(tokens).patches[:, order], atol=1e-5)
    assert same == (kind not in RELATIVE)
    torch.testing.assert_close(
        model.add_pos_embed(tokens) - tokens,
        torch.zeros_like(tokens) if model.pos_embed is None else model.pos_embed.view(1, 4, 4, 8).expand(2, -1, -1, -1),
    )


@pytest.mark.parametrize("build", [SwinTransformer, SwinTransformerV2])
def test_without_a_bias_attention_is_that_of_a_bias_of_zero(build: Any) -> None:
    plain, table = (shake(build(**SWIN, position_bias=kind)).eval() for kind in ("none", "table"))
    tables = [p for name, p in table.named_parameters() if name.endswith("bias_table")]
    assert not table.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    x = images(plain)
    assert not torch.allclose(plain(x), table(x))
    with torch.no_grad():
        for each in tables:
            each.zero_()
    torch.testing.assert_close(plain(x), table(x))
    for ours, theirs in zip(plain.attention_maps(x), table.attention_maps(x), strict=True):
        torch.testing.assert_close(ours.weights, theirs.weights)


@pytest.mark.parametrize("build", [SwinTransformer, SwinTransformerV2])
def test_an_absolute_embedding_is_added_after_the_patch_embedding_and_resized(build: Any, tmp_path: Path) -> None:
    model = shake(build(**SWIN, position_bias="absolute")).eval()
    plain = build(**SWIN, position_bias="none").eval()
    plain.load_state_dict({name: p for name, p in model.state_dict().items() if name != "pos_embed"})
    x = images(model)
    tokens = plain.patch_embed(x) + model.pos_embed.unflatten(1, (16, 16))
    torch.testing.assert_close(model(x), plain.forward_head(plain.encode(tokens)))
    save_weights(model, tmp_path / "model.safetensors")
    larger = build(**SWIN | {"img_size": 64, "window_size": 8}, position_bias="absolute").eval()
    assert load_weights(larger, tmp_path / "model.safetensors").resized["pos_embed"] == ((1, 256, 8), (1, 1024, 8))
    model.set_input_size(64)
    torch.testing.assert_close(model.pos_embed, larger.pos_embed)


@pytest.mark.filterwarnings("ignore::UserWarning")  # inside timm's interpolation
@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_a_model_rebuilt_for_another_size_is_timms_rebuilt(family: str) -> None:
    from tests.models.small_models import TIMM

    theirs = shake(TIMM[family]()).eval()
    ours = SMALL[family]().eval()
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, SwinTransformer | SwinTransformerV2)
    for size, window in [((48, 64), None), (64, 4), (32, 4)]:
        ours.set_input_size(size, window)
        theirs.set_input_size(size, window_size=window)  # type: ignore[operator]
        assert [block.attn.window for stage in ours.layers for block in stage.blocks] == [  # type: ignore[union-attr]
            block.attn.window_size
            for stage in theirs.layers
            for block in stage.blocks  # type: ignore[union-attr]
        ]
        if family == "swin":  # timm interpolates tables at geometric distances, the official code, and ours, bicubic
            ours.load_state_dict(theirs.state_dict())
        x = images(ours)
        assert relative_error(ours(x), theirs(x)) < 1e-5


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_kept_biases_are_computed_once_and_forgotten_after(family: str) -> None:
    model = shake(SMALL[family]()).eval()
    assert isinstance(model, SwinTransformer | SwinTransformerV2)
    x = images(model)
    calls = []
    for block in model.blocks:
        block.attn.bias = lambda bias=block.attn.bias: calls.append(1) or bias()
    expected = model(x)
    assert len(calls) == 6
    with model.biases_kept():
        for _ in range(3):
            torch.testing.assert_close(model(x), expected)
    assert len(calls) == 12
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    assert not torch.allclose(model(x), expected)


def test_a_larger_window_extrapolates_from_the_window_trained_on() -> None:
    # With the old window as reference, the bias between two tokens that both windows hold stays what it was.
    small = shake(SwinTransformerV2(**SWIN))
    large = SwinTransformerV2(**{**SWIN, "img_size": 64, "window_size": 8}, pretrained_window_sizes=(4, 4, 4))
    large.load_state_dict(small.state_dict())
    for before, after in zip(biases(small), biases(large), strict=True):
        h = before.shape[0]
        table = after.view(h, 8, 8, 8, 8)[:, :4, :4, :4, :4].reshape(h, 16, 16)
        torch.testing.assert_close(table, before)


def biases(model: Backbone) -> list[torch.Tensor]:
    return [m.bias() for m in model.modules() if isinstance(m, ContinuousBias)]


@pytest.mark.parametrize("build", [SwinTransformer, SwinTransformerV2])
def test_stages_that_do_not_fit_are_refused(build: Any) -> None:
    with pytest.raises(ValueError, match=r"depths \(2, 2\).*num_heads \(1, 2, 4\)"):
        build(**SWIN | {"depths": (2, 2)})
    with pytest.raises(ValueError, match=r"embed_dim 8, in stage 2 a width of 16.*3 heads"):
        build(**SWIN | {"num_heads": (1, 3, 4)})
    with pytest.raises(ValueError, match="window_size"):
        build(**SWIN | {"window_size": 0})


@pytest.mark.parametrize("sides", [(8, 8), (8, 8, 8, 8)])
def test_pretrained_windows_are_one_for_each_stage(sides: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pretrained_window_sizes"):
        SwinTransformerV2(**SWIN, pretrained_window_sizes=sides)


def test_temperatures_are_not_decayed_whichever_swin_has_them() -> None:
    # Else the ablation from one to the other would change two things at once.
    for model in (SwinTransformer(**SWIN, attention=CosineAttention), SwinTransformerV2(**SWIN)):
        temperatures = {name for name, _ in model.named_parameters() if name.endswith("logit_scale")}
        assert len(temperatures) == 6
        assert temperatures <= model.no_weight_decay()
