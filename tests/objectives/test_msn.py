"""MSN against the released code's numbers, what its anchors see, and what trains."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.objectives.small import BACKBONES, CROPS, OTHER_PREFIXES, closed_form, crops, wake
from tests.objectives.test_dino import experiment as dino_experiment
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.evaluation.features import rank_me
from vitlab.models import Backbone, VisionTransformer
from vitlab.objectives import MSN
from vitlab.objectives.msn import me_max
from vitlab.objectives.self_distillation import Prototypes, entropy, sinkhorn
from vitlab.optim import AdamW, WarmupCosine

SMALL = {"num_prototypes": 6, "hidden_dim": 32, "output_dim": 16}


def msn(backbone: Backbone | None = None, **kwargs: object) -> MSN:
    torch.manual_seed(0)
    arguments: dict = SMALL | kwargs
    return MSN(backbone or BACKBONES["vit"](), AdamW(1e-3), WarmupCosine(), **arguments)  # type: ignore[arg-type]


def test_no_patch_of_a_small_crop_is_left_out() -> None:
    """MSN hides patches itself; `patch_drop_rate` is for objectives that hide none."""
    model = msn()
    model.backbone.patch_drop.rate = 0.5
    images = torch.randn(2, model.backbone.in_chans, *model.backbone.img_size)
    whole = model.train().embed_whole(images)
    torch.testing.assert_close(whole, model.eval().backbone.embed(images))


# ---- the released code's numbers


@pytest.mark.parametrize(("balanced", "expected"), [(False, 4.41138854748), (True, 4.53225145681)])
def test_loss_equals_the_released_codes(balanced: bool, expected: float) -> None:
    """Run once on the released code, on inputs in closed form: two images, three anchors of each, τ 0.1, T 0.25."""
    prototypes = Prototypes(8, 4).double()
    prototypes.weight_v.data = closed_form(4, 8, a=0.37, b=0.1)
    logits = prototypes(closed_form(6, 8)).detach() / 0.1
    targets = (prototypes(closed_form(2, 8, a=1.1)).detach() / 0.1 / 0.25).softmax(dim=-1)
    targets = sinkhorn(targets) if balanced else targets
    assert float(F.cross_entropy(logits, targets.repeat(3, 1))) == pytest.approx(expected, abs=1e-10)
    assert float(me_max(logits.softmax(dim=-1))) == pytest.approx(0.157957860065, abs=1e-11)
    assert float(entropy(logits.softmax(dim=-1)).mean()) == pytest.approx(0.487593321374, abs=1e-11)


def test_sinkhorn_equals_the_released_codes() -> None:
    row = sinkhorn(closed_form(3, 4, s=3.0).softmax(dim=-1))[0]
    assert row.tolist() == pytest.approx([0.0192576782, 0.3752949218, 0.4168645317, 0.1885828684], abs=1e-9)


def test_schedules_end_on_the_way_as_in_the_released_code() -> None:
    """At the end of 800 epochs laid out as 1000: learning rate 9.9e-5, weight decay 0.366, momentum 0.9992."""
    schedule = WarmupCosine(warmup_epochs=15, warmup_lr=2e-4, min_lr=1e-6, stretch=1.25)
    assert schedule.lr(1e-3, 800, 800, 800) == pytest.approx(9.9e-5, abs=5e-7)
    assert schedule.lr(1e-3, 15, 800, 800) == 1e-3
    assert AdamW(1e-3, 0.04, weight_decay_end=0.4).weight_decay_at(1 / 1.25) == pytest.approx(0.366, abs=5e-4)
    assert msn().momentum(1 / 1.25) == pytest.approx(0.9992)


def test_prototypes_in_equal_use_cost_nothing() -> None:
    assert float(me_max(torch.eye(6))) == pytest.approx(0, abs=1e-6)
    assert float(me_max(torch.eye(6)[:1].repeat(3, 1))) == pytest.approx(torch.tensor(6.0).log().item())


# ---- what is seen


def test_the_loss_is_the_sum_of_its_parts() -> None:
    """Computed view by view, with λ = 5; the mask is the one that the same seed draws."""
    objective, (views, labels) = msn(me_max_weight=5.0, sinkhorn=False).double(), crops(4)
    views = [view.double() for view in views]
    torch.manual_seed(3)
    loss = objective.loss(views, labels).detach()

    torch.manual_seed(3)
    whole = objective.head(objective.embed_masked(views[1]))
    focal = objective.head(objective.backbone.embed(torch.cat(views[2:])))
    logits = objective.prototypes(torch.cat([whole, focal])) / 0.1
    target = (objective.prototypes(objective.teacher.module(views[0])) / 0.1).softmax(-1) ** 4
    target = (target / target.sum(1, keepdim=True)).repeat(3, 1)
    mean = logits.softmax(-1).mean(0)
    expected = -(target * logits.log_softmax(-1)).sum(1).mean() + 5 * (mean * (6 * mean).log()).sum()
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-12)


def test_the_teacher_sees_the_target_whole_and_anchors_lack_patches() -> None:
    objective = msn(patch_drop=0.15)
    seen: list[list[tuple[int, ...]]] = [[], []]
    for tokens, encoder in zip(seen, (objective.encoder, objective.backbone), strict=True):
        encoder.blocks[0].register_forward_hook(  # type: ignore[index, operator, union-attr]
            lambda module, inputs, output, tokens=tokens: tokens.append(tuple(inputs[0].shape[:2]))
        )
    objective.loss(*crops(n=4, num_local=3))
    # 16 patches of 2 px and the class token; 16 · 0.15 = 2.4, so 3 are left out; 4 patches in each of 3 focal crops
    assert seen == [[(4, 17)], [(4, 14), (12, 5)]]


def test_the_patch_embedding_starts_without_a_bias_as_released() -> None:
    """src/deit.py:208-211; the class token at line 197."""
    backbone = VisionTransformer(embed_dim=192, depth=1, num_heads=2)
    MSN(backbone, AdamW(1e-3), WarmupCosine(), **SMALL, released_init=True)  # type: ignore[arg-type]
    assert not backbone.patch_embed.proj.bias.any()  # type: ignore[union-attr]
    assert float(backbone.patch_embed.proj.weight.detach().std()) == pytest.approx((2 / (3 * 16**2)) ** 0.5, rel=0.02)
    assert float(backbone.cls_token.detach().std()) == pytest.approx(0.02, rel=0.2)  # type: ignore[union-attr]


@pytest.mark.parametrize(("mask_per_image", "alike"), [(False, True), (True, False)])
def test_a_batch_shares_its_mask_as_released_or_each_image_has_its_own(mask_per_image: bool, alike: bool) -> None:
    objective = msn(mask_per_image=mask_per_image, patch_drop=0.5)
    wake(objective.backbone)
    embedded = objective.embed_masked(crops(n=1)[0][0].repeat(8, 1, 1, 1))
    assert bool((embedded - embedded[:1]).abs().max() < 1e-5) == alike


# ---- what trains


def test_prototypes_get_a_gradient_and_their_lengths_none() -> None:
    """But for the biases before batch norms, which subtract them again, as released."""
    objective = msn()
    objective.loss(*crops(8)).backward()
    assert float(objective.prototypes.weight_v.grad.norm()) > 1e-3  # type: ignore[union-attr]
    assert not objective.prototypes.weight_g.requires_grad


def test_targets_move_no_prototype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their gradient is that of a loss whose targets are numbers."""
    objective, (views, labels) = msn(me_max_weight=0.0), crops(8)
    targets: list[Tensor] = []
    monkeypatch.setattr(objective, "watch", lambda t, ce: targets.append(t))
    torch.manual_seed(3)
    objective.loss(views, labels).backward()
    grad = objective.prototypes.weight_v.grad
    objective.zero_grad()
    torch.manual_seed(3)
    whole = objective.head(objective.embed_masked(views[1]))
    focal = objective.head(objective.backbone.embed(torch.cat(views[2:])))
    logits = objective.prototypes(torch.cat([whole, focal])) / 0.1
    F.cross_entropy(logits, targets[0].repeat(3, 1)).backward()
    torch.testing.assert_close(objective.prototypes.weight_v.grad, grad)


def test_prototypes_are_not_clipped() -> None:
    objective = msn(clip_grad=1e-3)
    objective.loss(*crops(8)).backward()
    free = objective.prototypes.weight_v.grad.norm()  # type: ignore[union-attr]
    torch.nn.utils.clip_grad_norm_(objective.student.parameters(), 1e-3)
    assert torch.equal(objective.prototypes.weight_v.grad.norm(), free)  # type: ignore[union-attr]


@pytest.mark.slow
def test_one_batch_is_learned_and_its_features_stay_apart() -> None:
    """The loss falls, the features keep their dimensions, and images come to different prototypes."""
    objective, (views, labels) = msn(num_prototypes=16), crops(32, num_local=1)
    optimizer = torch.optim.AdamW((p for p in objective.parameters() if p.requires_grad), lr=1e-3, weight_decay=0.0)
    losses, ranks = [], [rank_me(objective.encoder.embed(views[0]).detach())]
    for _ in range(80):
        optimizer.zero_grad()
        loss = objective.loss(views, labels)
        loss.backward()
        optimizer.step()
        objective.teacher.update(objective.student, 0.97)
        losses.append(float(loss.detach()))
    ranks.append(rank_me(objective.encoder.embed(views[0]).detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert ranks[1] > 0.9 * ranks[0]
    with torch.no_grad():
        assert len(set(objective.prototypes(objective.teacher_forward(views[0])).argmax(dim=1).tolist())) > 8


# ---- settings


def experiment() -> Config:
    config = dino_experiment()
    old = config["model"]["init_args"]
    kept = {name: old[name] for name in ("backbone", "optimizer", "schedule")}
    config["model"] = {"class_path": "vitlab.objectives.MSN", "init_args": kept | SMALL}
    config["data"] = {"init_args": {"multi_crop": CROPS}}
    return config


def test_a_swin_needs_uniform_masks_that_fit(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    config = experiment()
    stages = {"patch_size": 1, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    config["model"]["init_args"]["backbone"] = {"class_path": "vitlab.models.SwinTransformer", "init_args": stages}
    path = str(tiny(config, "msn"))
    assert run("fit", ["--config", path]) == 2
    assert "masking is random, but a SwinTransformer encodes whole maps: give uniform." in capsys.readouterr().err
    assert run("fit", ["--config", path, "--model.masking", "uniform", "--model.mask_patch_size", "3"]) == 2
    assert "Give a multiple of 1 of which twice as much divides the images." in capsys.readouterr().err
    uniform = ["--model.masking", "uniform", "--model.mask_patch_size", "2"]
    assert run("fit", ["--config", path, *uniform, "--data.multi_crop.global_crops.size", "6"]) == 2
    assert "images (6, 6)." in capsys.readouterr().err
    assert run("fit", ["--config", path, *uniform, "--trainer.limit_train_batches", "2"]) == 0


def test_views_that_cannot_be_encoded_are_refused(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tiny(experiment(), "msn"))
    assert run("fit", ["--config", path, "--data.multi_crop.local_crops.size", "5"]) == 2
    assert "data.multi_crop: Images of (5, 5) px do not divide into patches" in capsys.readouterr().err
    assert run("fit", ["--config", path, "--model", "SimMIM", "--model.mask_patch_size", "4"]) == 2
    assert "SimMIM sees one view of each image; set data.multi_crop: null." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["swin", "swin_v2"])
def test_a_swins_masked_anchor_sees_one_patch_of_each_four(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitlab.objectives.msn.uniform_masking", lambda *_: (torch.tensor([[0, 3, 9, 14]]), None))
    objective = msn(backbone=BACKBONES[name](), masking="uniform", mask_patch_size=2)
    wake(objective)
    images = torch.randn(3, 1, 8, 8)
    numbers = torch.arange(16).view(4, 4).repeat_interleave(2, 0).repeat_interleave(2, 1)  # of patches of 2 px
    kept = torch.isin(numbers, torch.tensor([0, 3, 9, 14]))
    before = objective.embed_masked(images)
    torch.testing.assert_close(objective.embed_masked(images + ~kept), before)
    assert not torch.allclose(objective.embed_masked(images + kept), before, atol=1e-4)


@pytest.mark.parametrize("prefix", OTHER_PREFIXES)
def test_a_backbone_with_registers_or_without_a_class_token_learns(prefix: str) -> None:
    objective = MSN(OTHER_PREFIXES[prefix](), AdamW(1e-3), WarmupCosine(), **SMALL)  # type: ignore[arg-type]
    views, labels = crops()
    objective.loss(views, labels).backward()
    for name, parameter in objective.backbone.named_parameters():
        assert parameter.grad is not None, name
