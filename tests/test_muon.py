"""Muon. The oracles are PyTorch's Muon and AdamW, each on its own share of the parameters, and timm's Newton-Schulz."""

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim.muon import get_lr_scale, zeropower_via_newtonschulz
from torch import Tensor, nn

from tests.kills import continued_after_a_kill
from tests.models.small_models import SMALL
from vitlab.models import VisionTransformer
from vitlab.models.layers import fan_in
from vitlab.optim import AdamW, Muon, describe_groups, parameter_groups
from vitlab.optim.muon import A, B, C, lr_ratio, orthogonalize


def groups_of(model: Any, settings: AdamW | Muon, decays_positions: bool = False) -> list[dict[str, Any]]:
    depths, head, no_decay = model.parameters_by_depth(), model.head_parameters(), model.no_weight_decay()
    positions = [p for name, p in model.named_parameters() if name in no_decay]
    no_decay = no_decay if decays_positions is False else ()
    return parameter_groups(model.named_parameters(), settings, 32, depths, head, no_decay, positions)


def matrices_of(model: Any, decays_positions: bool = False) -> set[str]:
    groups = groups_of(model, Muon(1e-3), decays_positions)
    return {name for group in groups if group["hidden_matrices"] for name in group["names"]}


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}
    return VisionTransformer(**sizes, init=fan_in)  # type: ignore[arg-type]


def gradients(model: nn.Module, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


@pytest.mark.parametrize(("dtype", "rtol", "atol"), [("float32", 1e-4, 1e-5), ("bfloat16", 0.05, 0.02)])
@pytest.mark.parametrize("shape", [(1, 24, 24), (3, 8, 32), (1, 32, 8)])
def test_a_matrix_is_orthogonalized_as_by_timm(shape: tuple[int, ...], dtype: Any, rtol: float, atol: float) -> None:
    """A unit in the last place of bfloat16 is 2⁻⁸ of a number; five steps of three products differ by a few."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    [found] = orthogonalize([matrices], 5, dtype)
    theirs = zeropower_via_newtonschulz(matrices, 5, [(A, B, C)], dtype=getattr(torch, dtype))
    torch.testing.assert_close(found, theirs.float(), rtol=rtol, atol=atol)
    assert torch.equal(found, found.to(getattr(torch, dtype)).float())
    values = torch.linalg.svdvals(found)
    assert 0.6 < values.min() < values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    overlap = (left.mT @ found @ right.mT).diagonal(dim1=-2, dim2=-1)  # of the same singular vectors
    torch.testing.assert_close(overlap.sort().values, values.sort().values, rtol=10 * rtol, atol=2 * atol + 1e-3)


def test_the_products_of_a_step_have_the_type_that_is_asked_for() -> None:
    weights = {}
    for dtype in (None, "float32", "bfloat16"):
        model = vit()
        optimizer = Muon(0.01, ns_dtype=dtype).build(groups_of(model, Muon(0.01)))  # type: ignore[arg-type]
        for name, gradient in gradients(model, 0).items():
            model.get_parameter(name).grad = gradient
        optimizer.step()
        weights[dtype] = model.blocks[0].mlp.fc1.weight.detach()  # type: ignore[union-attr]
    assert torch.equal(weights[None], weights["float32"])
    assert 0 < (weights["bfloat16"] - weights["float32"]).abs().max() < 0.02 * 0.01 * lr_ratio(96, 24)


@pytest.mark.parametrize("shape", [(24, 24), (96, 24), (24, 96)])
def test_rates_follow_shapes_as_timms(shape: tuple[int, int]) -> None:
    assert lr_ratio(*shape) == get_lr_scale(torch.Size(shape), "match_rms_adamw")


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (Muon(0.01, weight_decay=2.0), {"lr": 0.01}),
        (
            Muon(0.01, weight_decay=2.0, muon_lr=0.05, momentum=0.8, nesterov=False),
            {"lr": 0.05, "momentum": 0.8, "nesterov": False},
        ),
    ],
)
def test_steps_are_those_of_pytorchs_muon_and_adamw(
    settings: Muon, theirs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch's Muon with our orthogonalization, which runs in float32; q, k and v are three parameters for it."""
    name = "torch.optim._muon._zeropower_via_newtonschulz"
    monkeypatch.setattr(name, lambda grad, coefficients, steps, eps: orthogonalize([grad[None]], steps)[0][0])
    model, started = vit(), {name: p.detach().clone() for name, p in vit().named_parameters()}
    hidden = matrices_of(model)
    copies = {
        name: [nn.Parameter(part.clone()) for part in (p.chunk(3) if name.endswith("qkv.weight") else [p])]
        for name, p in started.items()
    }
    theirs = {"weight_decay": 2.0, "adjust_lr_fn": "match_rms_adamw", **theirs}
    muon = torch.optim.Muon([p for name in sorted(hidden) for p in copies[name]], **theirs)
    decayed = [copies[name][0] for name in copies if name in ("patch_embed.proj.weight", "head.weight")]
    others = [copies[name][0] for name in sorted(copies.keys() - hidden) if copies[name][0] not in set(decayed)]
    adamw = torch.optim.AdamW([{"params": decayed, "weight_decay": 2.0}, {"params": others}], lr=0.01, weight_decay=0)
    optimizer = settings.build(groups_of(model, settings))
    for step in range(3):
        for name, gradient in gradients(model, step).items():
            model.get_parameter(name).grad = gradient
            for part, share in zip(copies[name], gradient.chunk(len(copies[name])), strict=True):
                part.grad = share.clone()
        for each in (optimizer, muon, adamw):
            each.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), torch.cat([*copies[name]]).detach(), msg=name)
        assert not torch.equal(parameter, started[name]), name


def test_float32_differs_from_pytorchs_bfloat16_by_its_rounding_alone() -> None:
    weight = torch.zeros(32, 32)
    ours, theirs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    ours.grad = theirs.grad = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    Muon(0.1).build(
        [{"params": [ours], "names": ["w"], "lr": 0.1, "weight_decay": 0.0, "hidden_matrices": True}]
    ).step()
    torch.optim.Muon([theirs], lr=0.1, adjust_lr_fn="match_rms_adamw").step()
    assert 0 < (ours - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        ("vit", {"qkv", "proj", "fc1", "fc2"}),
        ("swin", {"qkv", "proj", "fc1", "fc2", "reduction"}),
        ("swinv2", {"qkv", "proj", "fc1", "fc2", "reduction"}),
    ],
)
@pytest.mark.parametrize("decays_positions", [False, True])  # as SimMIM and DINO do
def test_hidden_matrices_are_those_of_blocks_and_between_them(
    model: str, ends: set[str], decays_positions: bool
) -> None:
    """No embedding, position, classifier, table or position-bias MLP."""
    names = matrices_of(SMALL[model](), decays_positions)
    assert {name.split(".")[-2] for name in names} == ends
    assert all(name.endswith(".weight") and "cpb_mlp" not in name for name in names)


def test_rates_of_both_parts_are_decayed_scaled_and_named() -> None:
    groups = groups_of(vit(), Muon(1e-3, muon_lr=1e-2, layer_decay=0.5, head_lr=5.0, reference_batch=16))
    rates = {name: group["lr"] for group in groups for name in group["names"]}
    assert rates["blocks.0.attn.qkv.weight"] == pytest.approx(2e-2 * 0.25)
    assert rates["blocks.0.attn.qkv.bias"] == pytest.approx(2e-3 * 0.25)
    assert rates["head.weight"] == 10.0
    assert "blocks.0.attn.qkv.weight (Muon)" in describe_groups(groups, most=20)
    assert "hidden_matrices" not in groups_of(vit(), AdamW(1e-3))[0]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = vit()
    optimizer = Muon(0.1).build(groups_of(model, Muon(0.1)))
    for step, found_inf in enumerate((0.0, 1.0)):
        for name, gradient in gradients(model, step).items():
            model.get_parameter(name).grad = gradient / (1 - found_inf)
        before = deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        optimizer.step()
    torch.testing.assert_close([model.state_dict(), optimizer.state_dict()["state"]], before, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork of this process is killed")
def test_a_killed_run_continues_to_the_bit(tiny: Callable[..., Path]) -> None:
    """With clipped gradients and patches left out; killed after a step that no checkpoint holds."""
    muon = {"class_path": "vitlab.optim.Muon", "init_args": {"lr": 3e-3, "weight_decay": 0.1, "weight_decay_end": 0.2}}
    model = {"init_args": {"optimizer": muon, "backbone": {"init_args": {"patch_drop_rate": 0.5}}}}
    trainer = {"max_epochs": 2, "limit_train_batches": 5, "gradient_clip_val": 0.5}
    often = {"checkpoint": {"every_n_steps": 2, "max_time_share": 1.0}}
    path = tiny({"model": model, "trainer": trainer, "run": often})
    state = continued_after_a_kill(["--config", str(path)])["optimizer_states"][0]["state"]
    assert sum("momentum_buffer" in each for each in state.values()) == 8  # four matrices in each of two blocks
