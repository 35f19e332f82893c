"""Learning rates and parameter groups. Golden values: MAE's released `util/lr_sched.py`, run in float64."""

import math

import pytest
import torch
from torch import nn

from vitlab.models import VisionTransformer
from vitlab.optim import SGD, AdamW, WarmupCosine, describe_groups, parameter_groups


@pytest.mark.parametrize(
    ("epoch", "lr"), [(0, 0.0), (0.5, 0.25), (1.9, 0.95), (2, 1.0), (3.5, 0.722208), (5.9, 0.101387)]
)
def test_warmup_cosine_equals_mae_released_schedule(epoch: float, lr: float) -> None:
    schedule = WarmupCosine(warmup_epochs=2, min_lr=0.1)
    assert schedule.lr(1.0, step=round(epoch * 10), steps=60, epochs=6) == pytest.approx(lr, abs=1e-6)


def test_warmup_and_minimum_are_absolute_whatever_the_peak() -> None:
    schedule = WarmupCosine(warmup_epochs=1, warmup_lr=1e-6, min_lr=1e-5)
    for peak in (1e-3, 1e-4):
        assert schedule.lr(peak, 0, 100, 10) == 1e-6
        assert schedule.lr(peak, 100, 100, 10) == pytest.approx(1e-5)


def test_a_warmup_longer_than_the_run_rises_to_the_end() -> None:
    rates = [WarmupCosine(warmup_epochs=20).lr(1.0, step, 100, 10) for step in range(101)]
    assert rates == sorted(rates)
    assert rates[-1] == 1.0


def vit() -> VisionTransformer:
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=5)


def groups_of(model: VisionTransformer, optimizer: AdamW, batch: int = 32) -> list[dict]:
    return parameter_groups(
        model.named_parameters(), optimizer, batch, model.layers(), model.head_parameters(), model.no_weight_decay()
    )


def settings_by_name(groups: list[dict]) -> dict[str, tuple[float, float]]:
    return {name: (group["lr"], group["weight_decay"]) for group in groups for name in group["names"]}


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = vit()
    groups = groups_of(model, AdamW(1e-3, layer_decay=0.5, head_lr=1.0))
    assert sorted(name for group in groups for name in group["names"]) == sorted(dict(model.named_parameters()))


def test_biases_norms_and_tokens_are_not_decayed() -> None:
    found = settings_by_name(groups_of(vit(), AdamW(1e-3, weight_decay=0.1)))
    kept = {name for name, (_, decay) in found.items() if decay == 0}
    assert {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias", "head.bias"} <= kept
    assert found["head.weight"][1] == found["blocks.0.attn.qkv.weight"][1] == 0.1


def test_layer_decay_is_multiplied_into_lr_as_in_mae_lr_decay() -> None:
    # MAE util/lr_decay.py: decay ** (depth + 1 - id); id 0 for the embedding, i + 1 for block i, depth + 1 for the head
    found = settings_by_name(groups_of(vit(), AdamW(1e-3, layer_decay=0.5)))
    assert found["patch_embed.proj.weight"][0] == pytest.approx(1e-3 * 0.5**4)
    assert found["blocks.0.mlp.fc1.weight"][0] == pytest.approx(1e-3 * 0.5**3)
    assert found["blocks.2.mlp.fc1.weight"][0] == pytest.approx(1e-3 * 0.5)
    assert found["head.weight"][0] == 1e-3


def test_the_head_has_its_own_learning_rate() -> None:
    found = settings_by_name(groups_of(vit(), AdamW(1e-5, head_lr=1e-3)))
    assert {name for name, (lr, _) in found.items() if lr == 1e-3} == {"head.weight", "head.bias"}
    assert found["blocks.2.mlp.fc1.weight"][0] == 1e-5


def test_learning_rates_scale_with_the_global_batch_when_asked() -> None:
    found = settings_by_name(groups_of(vit(), AdamW(5e-4, head_lr=1e-2, reference_batch=512), batch=1024))
    assert found["blocks.0.mlp.fc1.weight"][0] == 1e-3
    assert found["head.weight"][0] == 2e-2


def test_frozen_parameters_are_in_no_group() -> None:
    model = vit()
    model.patch_embed.requires_grad_(False)
    assert "patch_embed.proj.weight" not in settings_by_name(groups_of(model, AdamW(1e-3)))


def test_a_long_table_of_groups_is_folded() -> None:
    groups = groups_of(vit(), AdamW(1e-3, layer_decay=0.5))
    assert len(groups) == 10  # five depths, each with and without weight decay
    assert len(describe_groups(groups).splitlines()) == 4


def test_adamw_equals_torch_and_sgd_decays_into_the_gradient() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(3, 3), nn.Linear(3, 3)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3)
    for settings, oracle in (
        (AdamW(0.1, weight_decay=0.3), torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.3)),
        (SGD(0.1, weight_decay=0.3), torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.3)),
    ):
        built = settings.build([{"params": list(ours.parameters()), "lr": 0.1, "weight_decay": 0.3}])
        for model, optimizer in ((ours, built), (theirs, oracle)):
            for _ in range(3):
                optimizer.zero_grad()
                model(x).square().sum().backward()
                optimizer.step()
        torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    "wrong", [{"lr": 0.0}, {"weight_decay": -1.0}, {"head_lr": -1.0}, {"layer_decay": 1.5}, {"reference_batch": -8}]
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdamW(**{"lr": 1e-3, **wrong})
    assert math.isfinite(AdamW(1e-3).lr)
