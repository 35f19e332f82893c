"""ViT and DeiT: subsets of patches, positions, the two heads."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.kills import continued_after_a_kill
from tests.models.small_models import TIMM, VIT, images, relative_error, shake
from vitlab.distributed import places
from vitlab.models import VisionTransformer, layers
from vitlab.models.layers import (
    BatchNorm,
    DropPath,
    PatchDropout,
    fan_in,
    resample_by_sums,
    resample_grid,
    sincos_table,
    xavier_apart,
)


def build(**changes: object) -> VisionTransformer:
    return shake(VisionTransformer(**VIT | changes)).eval()  # type: ignore[arg-type, return-value]


def test_patches_carry_their_positions_with_them() -> None:
    # After step 2 the order is of no matter to the blocks: MAE may shuffle.
    model = build()
    tokens = model.add_pos_embed(model.patch_embed(images(model))).flatten(1, 2)
    order = torch.randperm(16)
    features, shuffled = model.encode(tokens), model.encode(tokens[:, order])
    torch.testing.assert_close(shuffled.patches, features.patches[:, order], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(shuffled.prefix, features.prefix, atol=1e-5, rtol=1e-4)


def test_fixed_positions_are_not_trained_and_the_class_token_has_none() -> None:
    model = VisionTransformer(**VIT, fixed_pos_embed=True)
    assert not model.pos_embed.requires_grad
    assert not model.pos_embed[0, 0].any()
    assert torch.equal(model.pos_embed[0, 1:], sincos_table(24, 4, 4))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("new", [(7, 3), (2, 9), (4, 6), (1, 1)])
def test_sums_resize_as_pytorchs_interpolation_does(new: tuple[int, int], antialias: bool) -> None:
    """Also their gradients, of which CUDA's kernel for interpolation has no deterministic one."""
    torch.manual_seed(0)
    tables = [torch.randn(4, 6, 5).requires_grad_() for _ in range(2)]
    tables[1].data.copy_(tables[0].data)
    for table, resize in zip(tables, (resample_grid, resample_by_sums), strict=True):
        resize(table, *new, antialias).square().sum().backward()
    outputs = [resize(tables[0], *new, antialias) for resize in (resample_grid, resample_by_sums)]
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(tables[0].grad, tables[1].grad, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_resizes_positions_with_deterministic_algorithms() -> None:
    table = torch.randn(14, 14, 32, device="cuda", requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        resample_grid(table, 6, 6).square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert table.grad is not None
    torch.testing.assert_close(resample_grid(table.cpu(), 6, 6), resample_grid(table, 6, 6).cpu(), rtol=1e-5, atol=1e-6)


def test_distilled_logits_are_the_mean_of_both_heads() -> None:
    model = build(distilled=True)
    features = model.forward_features(images(model))
    cls, dist = model.forward_heads(features)
    torch.testing.assert_close(model.forward_head(features), (cls + dist) / 2)
    torch.testing.assert_close(cls, model.head(features.prefix[:, 0]))
    torch.testing.assert_close(dist, model.head_dist(features.prefix[:, 1]))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distilled": True, "global_pool": "avg"}, "global_pool"),
        ({"distilled": True, "class_token": False}, "leave both settings out"),
        ({"distilled": True, "reg_tokens": 1}, "leave both settings out"),
        ({"class_token": False}, "class_token is false; give avg"),
        ({"drop_path_rate": 1.5}, "drop_path_rate"),
        ({"num_heads": 5}, "24 .* 5 heads.*20 or 25"),
        ({"norm": "batch", "grad_checkpointing": True}, "grad_checkpointing: true would average each batch twice"),
        ({"embed_dim": 22, "num_heads": 1, "fixed_pos_embed": True}, "divisible by 4"),
    ],
    ids=str,
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(**changes)


@pytest.mark.parametrize(
    ("changes", "pool"), [({"distilled": True}, "avg"), ({"class_token": False, "global_pool": "avg"}, "token")]
)
def test_a_new_head_pools_what_there_is(changes: dict[str, Any], pool: Any) -> None:
    with pytest.raises(ValueError, match=r"global_pool|class_token is false; give avg"):
        build(**changes).reset_classifier(3, pool)


@pytest.mark.parametrize("changes", [{"reg_tokens": 3}, {"class_token": False, "global_pool": "avg"}], ids=str)
def test_with_registers_or_no_class_token_a_model_is_like_the_others(changes: dict[str, object]) -> None:
    model = build(**changes, patch_drop_rate=0.5)
    x = images(model)
    features, prefix = model.forward_features(x), 4 if "reg_tokens" in changes else 0
    assert features.prefix.shape == (2, prefix, 24)
    assert len({id(p) for group in model.parameters_by_depth() for p in group}) == len(list(model.parameters()))
    assert {p.shape[1] for p in model.parameters_by_depth()[0] if p.ndim == 3} <= {1, 3, 16 + prefix}
    before = model(x)
    if prefix:  # nothing reads the last block's registers
        changed = features._replace(prefix=torch.cat([features.prefix[:, :1], features.prefix[:, 1:] + 1], dim=1))
        assert torch.equal(model.forward_head(changed), before)
    maps = model.attention_maps(x)
    assert maps[0].weights.shape == (2, 2, 16 + prefix, 16 + prefix)
    assert model.train().forward_features(x).patches.shape[1] == 8
    model.reset_classifier(0)
    assert model.eval()(x).shape == (2, 24)


@pytest.mark.parametrize("std", [1e-6, 0.02])
def test_the_class_token_starts_as_the_argument_says(std: float) -> None:
    model = VisionTransformer(**VIT | {"embed_dim": 800}, cls_token_std=std)
    assert model.cls_token is not None
    assert model.cls_token.std().item() == pytest.approx(std, rel=0.1)


def test_q_k_and_v_and_patches_start_as_big_visions() -> None:
    """Xavier over (D, D) three times, over (D, 3D) with 0.71 of the deviation; patches by fan-in."""
    model = VisionTransformer(**VIT | {"embed_dim": 192}, init=xavier_apart, patch_init=fan_in)
    assert float(model.blocks[0].attn.qkv.weight.detach().std()) == pytest.approx(192**-0.5, rel=0.02)  # type: ignore[union-attr, index]
    assert float(model.blocks[0].mlp.fc1.weight.detach().std()) == pytest.approx((2 / (5 * 192)) ** 0.5, rel=0.02)  # type: ignore[union-attr, index]
    assert float(model.patch_embed.proj.weight.detach().std()) == pytest.approx((3 * 16) ** -0.5, rel=0.05)
    assert not model.patch_embed.proj.bias.any()  # type: ignore[union-attr]


@pytest.mark.parametrize("layer", [DropPath(0.5), PatchDropout(0.5)], ids=["drop path", "patch dropout"])
def test_processes_together_drop_what_one_would(layer: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(1.0, 12 * 4 * 4 * 2 + 1).view(12, 4, 4, 2)
    torch.manual_seed(0)
    whole = layer.train()(x)
    monkeypatch.setattr(layers, "num_processes", lambda: 3)
    for rank in range(3):
        own = places(4, rank, 3)
        monkeypatch.setattr(layers, "local_rows", lambda drawn, own=own: drawn[own])
        torch.manual_seed(0)  # the generators of all processes are in the same state
        assert torch.equal(layer(x[own]), whole[own])


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


# ---- norm: batch


def test_batch_norm_over_images_and_tokens_is_pytorchs_with_channels_last() -> None:
    ours, theirs = shake(BatchNorm(8)), nn.BatchNorm1d(8)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    for _ in range(3):
        x = 3 * torch.randn(4, 5, 8) + 1
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        y, expected = ours(a), theirs(b.flatten(0, 1)).view_as(b)
        torch.testing.assert_close(y, expected)
        for result in (y, expected):
            result.pow(3).sum().backward()
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x.flatten(0, 1)).view_as(x))


@pytest.mark.parametrize("global_pool", ["token", "avg"])
def test_batch_norms_take_the_place_of_every_layer_norm(global_pool: str) -> None:
    layer, batch = (VisionTransformer(**VIT, norm=norm, global_pool=global_pool) for norm in ("layer", "batch"))  # type: ignore[arg-type]
    norms = {name for name, module in layer.named_modules() if isinstance(module, nn.LayerNorm)}
    assert len(norms) == 2 * VIT["depth"] + 1
    assert norms == {name for name, module in batch.named_modules() if isinstance(module, BatchNorm)}
    assert [n for n, _ in layer.named_parameters()] == [n for n, _ in batch.named_parameters()]
    x = images(batch, batch=3)
    shake(batch).train()
    assert not torch.allclose(batch(x)[:1], batch(x[:1]), atol=1e-3)  # statistics of other images
    batch.eval()
    torch.testing.assert_close(batch(x)[:1], batch(x[:1]), atol=1e-5, rtol=1e-4)
    assert [m.weights.shape for m in batch.attention_maps(x)] == [m.weights.shape for m in layer.attention_maps(x)]


def test_averages_of_a_batch_norm_outlive_a_batch_that_is_not_finite() -> None:
    norm = BatchNorm(2)
    norm(torch.randn(4, 3, 2))
    before = norm.running_mean.clone(), norm.running_var.clone()
    x = torch.randn(4, 3, 2)
    x[0, 0, 0] = float("inf")
    norm(x)
    for average, known in zip((norm.running_mean, norm.running_var), before, strict=True):
        assert average[0] == known[0]  # of the channel that overflowed
        assert average[1] != known[1]


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(one_step(rank, 2), Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def one_step(rank: int, size: int) -> dict[str, torch.Tensor]:
    """Return the state and the gradients after a step on every `size`-th image of a batch."""
    torch.manual_seed(0)
    model = build(norm="batch").double().train()
    x = images(model, batch=4).double()[rank::size]
    model(x).square().mean().backward()
    gradients = {f"{name}.grad": parameter.grad for name, parameter in model.named_parameters()}
    for gradient in gradients.values():
        if size > 1:
            dist.all_reduce(gradient)
            gradient /= size  # as DDP
    return model.state_dict() | gradients


def test_two_processes_have_the_statistics_and_the_gradients_of_one(tmp_path: Path) -> None:
    mp.start_processes(work, args=(str(tmp_path),), nprocs=2, start_method="fork")
    alone = one_step(0, 1)
    for rank in range(2):
        for name, value in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(value, alone[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork of this process is killed")
def test_a_killed_run_continues_with_the_running_statistics_it_had(tiny: Callable[..., Path]) -> None:
    model = {"backbone": {"init_args": {"norm": "batch"}}, "ema": {"decay": 0.9}}
    trainer = {"max_epochs": 2, "limit_train_batches": 5}
    often = {"checkpoint": {"every_n_steps": 2, "max_time_share": 1.0}}
    arguments = ["--config", str(tiny({"model": {"init_args": model}, "trainer": trainer, "run": often}))]
    state = continued_after_a_kill(arguments)["state_dict"]
    assert state["backbone.blocks.0.norm1.running_mean"].any()
    assert torch.equal(state["average.module.norm.running_var"], state["backbone.norm.running_var"])
