"""Learning rates and parameter groups. Golden values: MAE's released `util/lr_sched.py`, run in float64."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn

from vitlab.commands.dispatch import run
from vitlab.models import VisionTransformer
from vitlab.objectives import Objective
from vitlab.optim import (
    SGD,
    AdamW,
    AnyOptimizer,
    Muon,
    Schedule,
    WarmupCosine,
    WarmupStableDecay,
    WarmupSteps,
    describe_groups,
    parameter_groups,
)


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


@pytest.mark.parametrize(
    ("prefix", "epoch", "lr"),
    # Swin, 300 epochs, lr_scheduler.py run with and without WARMUP_PREFIX
    [(False, 20, 9.89e-4), (True, 20, 1e-3), (False, 100, 7.53e-4), (True, 100, 8.14e-4), (False, 300, 1e-5)],
)
def test_a_cosine_over_the_whole_run_is_the_released_swins(prefix: bool, epoch: int, lr: float) -> None:
    schedule = WarmupCosine(warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5, warmup_prefix=prefix)
    assert schedule.lr(1e-3, 10 * epoch, 3000, 300) == pytest.approx(lr, abs=6e-7)


def test_a_cosine_over_the_whole_run_equals_timms() -> None:
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    timm = CosineLRScheduler(optimizer, t_initial=60, lr_min=1e-5, warmup_t=10, warmup_lr_init=1e-6)
    schedule = WarmupCosine(warmup_epochs=1, warmup_lr=1e-6, min_lr=1e-5, warmup_prefix=False)
    for step in range(60):
        assert schedule.lr(1e-3, step, 60, 6) == pytest.approx(timm._get_lr(step)[0])


def test_steps_are_simmims() -> None:
    # MultiStepLRScheduler of microsoft/SimMIM's lr_scheduler.py: bisect_right, so the fall is at the milestone itself
    schedule = WarmupSteps(warmup_epochs=10, warmup_lr=2e-6, milestones=(700, 750), gamma=0.1)
    rates = {epoch: schedule.lr(4e-4, 2 * epoch, 1600, 800) for epoch in (0, 5, 10, 699, 700, 749, 750, 799)}
    expected = {0: 2e-6, 5: 2.01e-4, 10: 4e-4, 699: 4e-4, 700: 4e-5, 749: 4e-5, 750: 4e-6, 799: 4e-6}
    assert rates == pytest.approx(expected)


def test_a_milestone_within_the_warmup_is_refused() -> None:
    with pytest.raises(ValueError, match="milestones"):
        WarmupSteps(warmup_epochs=10, milestones=(5,))


@pytest.mark.parametrize(
    ("decay", "shape"), [("1-sqrt", lambda x: 1 - math.sqrt(x)), ("linear", lambda x: 1 - x)], ids=["1-sqrt", "linear"]
)
def test_a_stable_rate_cools_down_in_the_last_share_of_the_run(decay: str, shape: Callable[[float], float]) -> None:
    """Hägele et al. 2024, equation 1; warm-up for 10 of 100 steps, cooldown from step 80 on."""
    schedule = WarmupStableDecay(warmup_epochs=1, warmup_lr=0.1, min_lr=0.2, cooldown=0.2, decay=decay)  # type: ignore[arg-type]
    for step in range(101):
        expected = 0.1 + 1.9 * step / 10 if step < 10 else 2.0 if step <= 80 else 0.2 + 1.8 * shape((step - 80) / 20)
        assert schedule.lr(2.0, step, 100, 10) == pytest.approx(expected), step
    assert schedule.lr(2.0, 100, 100, 10) == 0.2


def test_a_cooldown_begins_no_earlier_than_the_warmup_ends_and_may_be_cut_or_left_out() -> None:
    triangle = WarmupStableDecay(warmup_epochs=5, cooldown=1.0, decay="linear")
    assert [triangle.lr(1.0, step, 100, 10) for step in (0, 25, 50, 75, 100)] == [0, 0.5, 1, 0.5, 0]
    cut = WarmupStableDecay(cooldown=0.5, decay="linear", stretch=1.5)  # the line is 100 steps, of which 50 are run
    assert cut.lr(1.0, 100, 100, 10) == 0.5
    assert WarmupStableDecay(cooldown=0.0).lr(1.0, 100, 100, 10) == 1.0


def test_absolute_rates_follow_the_batch_only_when_asked() -> None:
    # Swin's main.py:326-338 multiplies all three, DeiT's main.py:349-351 the peak alone.
    for schedule in (WarmupCosine(1, 1e-6, min_lr=1e-5), WarmupStableDecay(1, 1e-6), WarmupSteps(1, 1e-6)):
        assert schedule.at(2.0) == schedule
    swin = WarmupCosine(1, 5e-7, min_lr=5e-6, scale_with_batch=True).at(2.0)
    assert [swin.lr(1e-3, step, 100, 10) for step in (0, 100)] == pytest.approx([1e-6, 1e-5])
    stable = WarmupStableDecay(1, 5e-7, min_lr=5e-6, scale_with_batch=True).at(2.0)
    assert [stable.lr(1e-3, step, 100, 10) for step in (0, 100)] == pytest.approx([1e-6, 1e-5])
    assert WarmupSteps(1, 5e-7, scale_with_batch=True).at(4.0).lr(4e-4, 0, 100, 10) == pytest.approx(2e-6)


@pytest.mark.parametrize("schedule", [WarmupCosine(5, min_lr=1e-6), WarmupStableDecay(5, 1e-7, min_lr=1e-6)])
def test_layers_keep_the_proportions_of_their_rates_unless_asked(schedule: Schedule) -> None:
    """MAE's `adjust_learning_rate` multiplies the whole curve: ViT-H's lowest layers end at 7.6e-11."""
    lowest = 0.75**33
    for step in (0, 20, 50, 100, 400, 500):
        head = schedule.at(1.0).lr(4e-3, step, 500, 50)
        assert schedule.at(1.0, lowest).lr(4e-3 * lowest, step, 500, 50) == pytest.approx(head * lowest)
    kept = replace(schedule, scale_with_layer=False)
    assert kept.at(1.0, lowest) == kept
    assert kept.lr(4e-3 * lowest, 500, 500, 50) == 1e-6 > 4e-3 * lowest
    swin = WarmupCosine(min_lr=1e-6, scale_with_batch=True)
    assert swin.at(2.0, 0.5) == swin
    assert swin.at(2.0, 0.25).lr(1.0, 100, 100, 10) == pytest.approx(5e-7)


def test_groups_tell_the_decay_of_their_layer() -> None:
    groups = groups_of(vit(), AdamW(1e-3, layer_decay=0.5, head_lr=1e-3 * 0.5**2))
    scales = {name: group["layer_scale"] for group in groups for name in group["names"]}
    assert scales["patch_embed.proj.weight"] == 0.5**4
    assert scales["blocks.1.mlp.fc1.weight"] == 0.5**2  # of the same rate as the head
    assert scales["head.weight"] == 1.0


def vit() -> VisionTransformer:
    return VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=3, num_heads=2, num_classes=5)


def groups_of(model: VisionTransformer, optimizer: AdamW, batch: int = 32) -> list[dict]:
    return parameter_groups(
        model.named_parameters(),
        optimizer,
        batch,
        model.parameters_by_depth(),
        model.head_parameters(),
        model.no_weight_decay(),
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


def test_an_argument_that_an_optimizer_does_not_have_is_refused_by_name() -> None:
    setting = AnyOptimizer(1e-3, optimizer=torch.optim.RMSprop, arguments={"momentun": 0.9})
    with pytest.raises(ValueError, match=r"^Optimizer setting arguments: .*momentun"):
        setting.build([{"params": [nn.Parameter(torch.zeros(1))]}])


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((AdamW, wrong) for wrong in ({"lr": 0.0}, {"weight_decay": -1.0}, {"layer_decay": 1.5})),
        (WarmupCosine, {"warmup_epochs": -1.0}),
        (WarmupStableDecay, {"cooldown": 20.0}),
        *((Muon, wrong) for wrong in ({"momentum": 1.5}, {"ns_steps": 0})),
    ],
)
def test_settings_out_of_range_are_refused_by_name(kind: type, wrong: dict[str, float]) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "setting")
    lr = {} if kind in (WarmupCosine, WarmupStableDecay) else {"lr": 1e-3}
    with pytest.raises(ArgumentError, match=rf"(?s){next(iter(wrong))}.*does not conform to restriction"):
        parser.parse_object({"setting": lr | wrong})


def test_what_a_checkpoint_stores_of_parsed_settings_are_plain_numbers() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Muon, "setting")
    settings = parser.instantiate(parser.parse_object({"setting": {"lr": 1e-3, "weight_decay": 0.1, "momentum": 0.9}}))
    layers = [[nn.Parameter(torch.ones(2))], [nn.Parameter(torch.ones(2, 2))], [nn.Parameter(torch.ones(2, 2))]]
    named = [(f"{i}", p) for i, (p,) in enumerate(layers)]
    optimizer = settings.setting.build(parameter_groups(named, settings.setting, 8, layers))
    values = [value for group in optimizer.state_dict()["param_groups"] for value in group.values()]
    assert {type(value) for value in values} <= {int, float, bool, str, list, tuple, type(None)}


# Optimizers of other packages, named by their class in YAML


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_what_the_groups_set_is_no_argument(name: str) -> None:
    with pytest.raises(ValueError, match=f"arguments has {name}; give it beside `arguments`"):
        AnyOptimizer(1e-3, optimizer=torch.optim.NAdam, arguments={name: 0.1})


@pytest.mark.parametrize(
    ("name", "arguments"), [("timm.optim.Lamb", {"betas": [0.9, 0.99]}), ("timm.optim.Muon", {"momentum": 0.9})]
)
def test_timms_optimizers_train_and_their_run_is_built_again(
    name: str, arguments: dict[str, object], tiny: Callable[..., Path]
) -> None:
    """With layer decay in the groups' own rates, and with what the configuration stores."""
    settings = {"lr": 1e-3, "weight_decay": 0.1, "layer_decay": 0.5, "optimizer": name, "arguments": arguments}
    optimizer = {"class_path": "vitlab.optim.AnyOptimizer", "init_args": settings}
    trainer = {"limit_train_batches": 2, "limit_val_batches": 1}
    path = tiny({"model": {"init_args": {"optimizer": optimizer}}, "trainer": trainer})
    assert run("fit", ["--config", str(path), "--run.test", "false"]) == 0
    last = Path("runs/tiny/seed-0/checkpoints/last.ckpt")
    state = torch.load(last, weights_only=True)
    rates = {group["initial_lr"] for group in state["optimizer_states"][0]["param_groups"]}
    assert rates == {1e-3, 5e-4, 2.5e-4, 1.25e-4}
    assert all(value.isfinite().all() for value in state["state_dict"].values())
    stored = yaml.safe_load(Path("runs/tiny/seed-0/config.yaml").read_text())["model"]["init_args"]["optimizer"]
    assert stored["init_args"]["arguments"] == arguments
    built = Objective.load_from_checkpoint(last).optimizer  # type: ignore[type-abstract]
    assert built.optimizer.__name__ == name.rpartition(".")[2]  # type: ignore[attr-defined]
