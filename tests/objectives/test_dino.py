"""DINO against the released code's numbers, and what moves, what does not, and when."""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from tests.objectives.small import BACKBONES, CROPS, closed_form, crops, wake, without_gradient
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.models import TimmModel, VisionTransformer
from vitlab.models.layers import trunc_normal
from vitlab.models.weights import load_weights
from vitlab.objectives import DINO
from vitlab.objectives.dino import clip_each, cross_view_entropy, koleo, new_head, teacher_temperature
from vitlab.objectives.self_distillation import collapse, embed_views
from vitlab.optim import AdamW, WarmupCosine, cosine

Write = Callable[..., Path]


SMALL = {"out_dim": 24, "hidden_dim": 32, "bottleneck_dim": 16}
ONE = "{global_crops: {number: 1, size: 8, blur_prob: [0], solarize_prob: [0]}, local_crops: {number: 0}}"


def dino(backbone: str = "vit", **kwargs: object) -> DINO:
    torch.manual_seed(0)
    arguments: dict = SMALL | kwargs
    return DINO(BACKBONES[backbone](), AdamW(1e-3), WarmupCosine(), **arguments)  # type: ignore[arg-type]


# ---- the released code's numbers


def test_loss_and_center_equal_the_released_codes() -> None:
    """Run once on the released code, on inputs in closed form: epoch 0, then epoch 5, after the center has moved."""
    student, teacher = closed_form(8, 12), closed_form(4, 12, a=1.1, b=0.2)
    log_probs = (student / 0.1).log_softmax(dim=-1).chunk(4)
    center, losses = torch.zeros(12, dtype=torch.float64), []
    for epoch in (0, 5):
        targets = ((teacher - center) / teacher_temperature(epoch, 0.04, 0.07, 3)).softmax(dim=-1)
        losses.append(float(cross_view_entropy(targets.chunk(2), log_probs)))
        center = center.lerp(teacher.mean(dim=0), 0.1)
        if epoch == 0:
            assert center[:3].tolist() == pytest.approx([0.0699112660, 0.0595617037, -0.0158773504], abs=1e-9)
    assert losses == pytest.approx([11.2699435165, 11.0301575444], abs=1e-9)


@pytest.mark.parametrize("centering", [True, False])
@pytest.mark.parametrize("sharpening", [True, False])
def test_centering_and_sharpening_are_turned_off_alone(centering: bool, sharpening: bool) -> None:
    """Fig. 7's runs by their definition: c stays 0, τ_t is τ_s."""
    objective, (views, labels) = dino(centering=centering, sharpening=sharpening).double(), crops()
    views = [view.double() for view in views]
    center = torch.zeros(24, dtype=torch.float64)
    for _ in range(2):
        teacher = objective.teacher_forward(torch.cat(views[:2]))
        targets = ((teacher - center) / (0.04 if sharpening else 0.1)).softmax(-1)
        log_probs = (objective.head(embed_views(objective.backbone, views)) / 0.1).log_softmax(-1).detach()
        expected = float(cross_view_entropy(targets.chunk(2), log_probs.chunk(4)))
        assert float(objective.loss(views, labels).detach()) == pytest.approx(expected, rel=1e-12)
        center = 0.9 * center + 0.1 * teacher.mean(0) if centering else center
        torch.testing.assert_close(objective.center, center)
    entropy = float(-(targets * targets.log()).sum(1).mean())
    assert float(objective.watched["train/entropy"]) == pytest.approx(entropy)
    assert float(objective.watched["train/kl"]) == pytest.approx(expected - entropy)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.4, [0.1710097451, 0.6680403676, 0.1506267507, 0.0086532832, 0.0016698534]),
        (0.04, [0.0001810187, 0.9995148698, 0.0003041115, 0.0, 0.0]),
    ],
)
def test_balanced_targets_equal_dinov2s(temperature: float, expected: list[float]) -> None:
    """Run once on DINOv2's code, `sinkhorn_knopp_teacher`, in float64. No center moves beside."""
    objective = dino(sinkhorn=True, teacher_temp=temperature, warmup_teacher_temp=temperature)
    targets = objective.targets(closed_form(6, 5, a=1.1, b=0.2), torch.zeros(5))
    assert targets[0].tolist() == pytest.approx(expected, abs=1e-9)
    objective.loss(*crops())
    assert not objective.center.any()


def test_koleo_and_its_gradient_equal_dinov2s() -> None:
    """Run once on DINOv2's `KoLeoLoss` in float64; weighted and summed over the two global views, as there."""
    z = closed_form(7, 5, a=1.3, b=0.4).requires_grad_()
    loss = koleo(z)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.519581638977, abs=1e-11)
    expected = [0.2327640140, -0.0291334552, -0.2483503707, -0.1037334377, 0.1928531981]
    assert z.grad is not None
    assert z.grad[0].tolist() == pytest.approx(expected, abs=1e-9)
    views, labels = crops()
    embedded = [dino().backbone.embed(view) for view in views[:2]]
    expected = float(dino().loss(views, labels).detach() + 0.1 * sum(koleo(each).detach() for each in embedded))
    assert float(dino(koleo_weight=0.1).loss(views, labels).detach()) == pytest.approx(expected, rel=1e-5)


def test_a_head_with_batch_norm_equals_the_released_one() -> None:
    """Run once on the released `DINOHead(6, 5, use_bn=True, hidden_dim=8, bottleneck_dim=4)`, as it trains."""
    head = new_head(6, 8, 4, 5, True, trunc_normal, batch_norm=True).double()
    for name, parameter in head.named_parameters():
        if name not in {"last_layer.weight_g", *(f"mlp.{norm}.{of}" for norm in (1, 4) for of in ("weight", "bias"))}:
            parameter.data = closed_form(*parameter.shape, a=0.3, b=0.1 * parameter.dim())
    expected = [0.5506232591, 0.5374907111, 0.0296693868, -0.5633656114, -0.4917002442]
    assert head(closed_form(4, 6))[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_temperatures_rise_as_in_the_released_code() -> None:
    assert [teacher_temperature(e, 0.04, 0.07, 3) for e in range(5)] == pytest.approx([0.04, 0.055, 0.07, 0.07, 0.07])
    assert teacher_temperature(0, 0.04, 0.07, 0) == 0.07
    assert teacher_temperature(0, 0.04, 0.07, 1) == 0.04


def test_the_cosine_is_the_released_codes() -> None:
    """cosine_scheduler(1, 0.1, 4 epochs, 5 iterations, 1 of warm-up) there, from the end of its warm-up on."""
    rates = [WarmupCosine(warmup_epochs=1, min_lr=0.1).lr(1.0, step, 20, 4) for step in range(5, 20)]
    assert [*rates[:3], rates[-1]] == pytest.approx([1.0, 0.990166, 0.961095, 0.109834], abs=1e-6)
    assert dino().momentum(0.5) == pytest.approx(0.998)  # from 0.996 to 1
    assert AdamW(1e-3, 0.04, weight_decay_end=0.4).weight_decay_at(0.5) == pytest.approx(0.22)


def test_vit_small_has_the_published_number_of_parameters() -> None:
    """21,665,664 of the backbone and 22,352,128 of the head, counted on the released code."""
    with torch.device("meta"):
        objective = DINO(VisionTransformer(embed_dim=384, num_heads=6), AdamW(1e-3), WarmupCosine())
    assert [sum(p.numel() for p in m.parameters()) for m in (objective.backbone, objective.head)] == [
        21_665_664,
        22_352_128,
    ]
    names = set(objective.head.state_dict())
    assert {"mlp.0.weight", "mlp.2.bias", "mlp.4.weight", "last_layer.weight_g", "last_layer.weight_v"} <= names


# ---- views


@pytest.mark.parametrize("name", BACKBONES)
def test_crops_of_two_sizes_are_two_forwards_and_give_what_single_ones_do(name: str) -> None:
    """Also for a Swin, whose windows of 4 are as large as the small crop's first map, and larger than its second."""
    objective, (views, _) = dino(name), crops(num_local=8)
    wake(objective.backbone)
    sizes: list[tuple[int, ...]] = []
    hook = objective.backbone.patch_embed.register_forward_hook(lambda m, inputs, out: sizes.append(inputs[0].shape))
    together = embed_views(objective.backbone, views)
    hook.remove()
    assert sizes == [(8, 1, 8, 8), (32, 1, 4, 4)]
    torch.testing.assert_close(together, torch.cat([objective.backbone.embed(view) for view in views]))


def test_the_data_define_how_many_crops_are_global(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three, and two small ones of their size."""
    seen: list[int] = []
    teach = DINO.teacher_forward
    monkeypatch.setattr(
        DINO, "teacher_forward", lambda self, images: (seen.append(len(images)), teach(self, images))[1]
    )
    views = merge(CROPS, {"global_crops": {"number": 3}, "local_crops": {"size": 8}})
    path = tiny(experiment() | {"data": {"init_args": {"multi_crop": views}}}, "dino")
    assert fit("--config", path, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", 1) == 0
    assert seen == [3 * 64]


def test_the_head_sees_all_views_at_once_and_the_teacher_the_global_ones() -> None:
    objective, seen = dino(), []
    for head in (objective.head, objective.teacher.module.head):
        head.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    objective.loss(*crops(n=4, num_local=3))
    assert seen == [2 * 4, 5 * 4]


@pytest.mark.parametrize("num_local", [0, 1, 7])
def test_any_number_of_small_crops(num_local: int) -> None:
    """The mean over 2 · V − 2 pairs of the teacher's two views and all of the student's."""
    objective, (views, labels) = dino(), crops(num_local=num_local)
    targets = (objective.teacher_forward(torch.cat(views[:2])) / 0.04).softmax(-1).chunk(2)
    log_probs = [(objective.head(objective.backbone.embed(view)) / 0.1).log_softmax(-1).detach() for view in views]
    pairs = [-(targets[i] * log_probs[j]).sum(1).mean() for i in range(2) for j in range(2 + num_local) if i != j]
    assert len(pairs) == 2 * (2 + num_local) - 2
    torch.testing.assert_close(objective.loss(views, labels).detach(), torch.stack(pairs).mean())


@pytest.mark.parametrize(
    ("name", "crops", "said"),
    [
        ("DINO", "null", "DINO compares 2 global crops of an image, and the data give 1; set data.multi_crop"),
        ("MSN", "null", "MSN compares 2 global crops of an image, and the data give 1; set data.multi_crop"),
        ("LeJEPA", "null", "LeJEPA compares several views of an image; set data.multi_crop, with two views or more."),
        ("LeJEPA", ONE, "LeJEPA compares several views of an image; set data.multi_crop, with two views or more."),
    ],
)
def test_a_single_view_is_refused_before_the_run_begins(
    name: str, crops: str, said: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when another objective is named over a file of SimMIM."""
    path = tiny({"model": {"class_path": "vitlab.objectives.SimMIM", "init_args": {"mask_patch_size": 4}}})
    assert run("fit", ["--config", str(path), "--model", name, f"--data.multi_crop={crops}"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "training" not in error
    assert not Path("runs").exists()


# ---- what trains


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_a_model_of_timm_learns_and_its_teacher_embeds(name: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": 64} if name.startswith("vit") else {}
    model = TimmModel(name, num_classes=10, in_chans=1, **size)  # type: ignore[arg-type]
    objective = DINO(model, AdamW(1e-3), WarmupCosine(), norm_last_layer=False, **SMALL)  # type: ignore[arg-type]
    wake(objective.backbone)
    objective.teacher.restart(objective.student)
    views = [torch.randn(4, 1, 64, 64) for _ in range(2)]
    if not size:
        views += [torch.randn(4, 1, 32, 32)]
    expected = objective.head(objective.eval().backbone.embed(views[0]))
    torch.testing.assert_close(objective.teacher_forward(views[0]), expected)
    objective.train().loss(views, torch.arange(4)).backward()
    assert without_gradient(objective) == []


def test_lengths_of_the_last_layer_are_fixed_unless_asked() -> None:
    assert not dino().head.last_layer.weight_g.requires_grad  # type: ignore[union-attr]
    assert not any(p.requires_grad for p in dino(norm_last_layer=False).teacher.parameters())


def test_the_teacher_has_no_drop_path() -> None:
    torch.manual_seed(0)
    backbone = VisionTransformer(8, 2, 1, 0, embed_dim=32, depth=2, num_heads=2, drop_path_rate=0.9)
    objective = DINO(backbone, AdamW(1e-3), WarmupCosine(), **SMALL).train()  # type: ignore[arg-type]
    (images, *_), _ = crops()
    assert torch.equal(objective.teacher_forward(images), objective.teacher_forward(images))
    assert not torch.equal(objective.student(images), objective.student(images))


def test_each_gradient_is_clipped_by_itself() -> None:
    long, short = (nn.Parameter(torch.zeros(4)) for _ in range(2))
    long.grad, short.grad = torch.full((4,), 5.0), torch.full((4,), 0.1)
    clip_each([long, short, nn.Parameter(torch.zeros(1))], 3.0)
    assert float(long.grad.norm()) == pytest.approx(3.0)
    assert torch.equal(short.grad, torch.full((4,), 0.1))


# ---- over a run

VIT: Config = {
    "class_path": "vitlab.models.VisionTransformer",
    "init_args": {"patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.1},
}


def experiment(**changes: object) -> Config:
    arguments = {
        "backbone": VIT,
        "optimizer": {
            "class_path": "vitlab.optim.AdamW",
            "init_args": {"lr": 1.0e-3, "weight_decay": 0.04, "weight_decay_end": 0.4},
        },
        "schedule": {"class_path": "vitlab.optim.WarmupCosine", "init_args": {"warmup_epochs": 0.5}},
        **SMALL,
        "warmup_teacher_temp_epochs": 2,
        "teacher_temp": 0.07,
    }
    return {
        "model": {"class_path": "vitlab.objectives.DINO", "init_args": arguments | changes},
        "data": {"init_args": {"multi_crop": CROPS}},
        "trainer": {"max_epochs": 2, "limit_train_batches": 4},
    }


def fit(*arguments: object) -> int:
    return run("fit", [str(argument) for argument in arguments])


def weights(name: str = "dino", root: str = "runs") -> dict[str, Tensor]:
    return torch.load(f"{root}/{name}/seed-0/checkpoints/last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.slow
def test_the_teacher_moves_by_averaging_alone_once_an_optimizer_step(
    tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two batches a step: 8 batches are 4 steps, after each of which it is m · teacher + (1 − m) · student."""
    expected: list[dict[str, Tensor]] = []
    original = DINO.optimizer_step

    def recorded(self: DINO, *args: object, **kwargs: object) -> None:
        before, step = copy.deepcopy(self.teacher.module.state_dict()), self.global_step
        if expected:  # nothing but `optimizer_step` has moved it since
            torch.testing.assert_close(before, expected[-1])
        original(self, *args, **kwargs)
        m = cosine(0.5, 1.0, step / 4)
        student = self.student.state_dict()
        expected.append({name: m * before[name] + (1 - m) * student[name] for name in before})

    monkeypatch.setattr(DINO, "optimizer_step", recorded)
    path = tiny(experiment(momentum_teacher=0.5), "dino")
    assert fit("--config", path, "--trainer.accumulate_grad_batches", 2) == 0
    assert len(expected) == 4
    last = weights()
    for name, value in expected[-1].items():
        torch.testing.assert_close(last[f"teacher.module.{name}"], value)


def test_a_step_that_is_skipped_leaves_a_finite_center() -> None:
    objective = dino()
    views, labels = crops()
    objective.loss(views, labels)
    before = objective.center.clone()
    objective.loss([view * float("inf") for view in views], labels)
    assert torch.equal(objective.center, before)


def test_the_last_layer_rests_at_first_and_weight_decay_rises(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    decays, moved = [], []
    original = DINO.optimizer_step

    def recorded(self: DINO, *args: object, **kwargs: object) -> None:
        before = self.head.last_layer.weight_v.detach().clone()  # type: ignore[union-attr]
        original(self, *args, **kwargs)
        moved.append(not torch.equal(before, self.head.last_layer.weight_v))  # type: ignore[union-attr]
        decays.append(sorted({group["weight_decay"] for group in self.optimizers().param_groups}))  # type: ignore[union-attr]

    monkeypatch.setattr(DINO, "optimizer_step", recorded)
    assert fit("--config", tiny(experiment(), "dino")) == 0
    assert moved == [False] * 4 + [True] * 4
    assert [none for none, _ in decays] == [0.0] * 8
    assert [decay for _, decay in decays] == pytest.approx([cosine(0.04, 0.4, step / 8) for step in range(8)])


@pytest.mark.slow
def test_a_run_keeps_and_hands_on_its_teacher(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = {"class_path": "vitlab.runs.knn_monitor.KnnMonitor", "init_args": {"every_n_epochs": 1, "most": 100}}
    config = experiment()
    config["trainer"]["callbacks"] = [monitor]
    path = tiny(config, "dino")
    assert fit("--config", path) == 0
    # No epoch is called best; how many states are kept is a matter of the time they take.
    names = {file.name for file in Path("runs/dino/seed-0/checkpoints").iterdir()}
    assert {"last.ckpt"} <= names <= {"last.ckpt", "previous.ckpt"}
    logged = pd.read_csv("runs/dino/seed-0/metrics.csv")
    assert {"train/loss", "train/entropy", "train/kl", "val/knn", "val/rank", "val/std"} <= set(logged)
    rows = logged[["train/loss", "train/entropy", "train/kl"]].dropna()
    assert len(rows) == 2
    assert (rows["train/entropy"] + rows["train/kl"]).tolist() == pytest.approx(rows["train/loss"].tolist(), rel=1e-5)

    last = weights()
    backbone = VisionTransformer(8, 2, 1, 0, embed_dim=16, depth=2, num_heads=2)
    assert load_weights(backbone, "runs/dino/seed-0/checkpoints/last.ckpt").prefix == "teacher.module.backbone."
    assert torch.equal(backbone.cls_token, last["teacher.module.backbone.cls_token"])
    assert not torch.equal(backbone.cls_token, last["backbone.cls_token"])

    # A start from weights is the teacher's too; with hardly a step, both stay what was loaded.
    still = ["--model.optimizer.lr", "1e-12", "--model.momentum_teacher", "0.999999", "--trainer.max_epochs", "1"]
    assert fit("--config", path, "--run.name", "on", "--model.init_from", "runs/dino/seed-0", *still) == 0
    for side in ("backbone.", "teacher.module.backbone."):
        torch.testing.assert_close(weights("on")[f"{side}pos_embed"], last["teacher.module.backbone.pos_embed"])

    capsys.readouterr()
    assert run("validate", ["--config", str(path)]) == 2
    assert "DINO has no validation loss" in capsys.readouterr().err


# ---- collapse


def test_a_collapse_is_named() -> None:
    """Uniform answers have a loss of ln K; a constant one has no divergence between student and teacher."""
    assert "stuck at ln 24 = 3.18" in str(collapse(math.log(24), 0.0, 24))
    assert "stuck at ln 24" in str(collapse(0.5, math.log(24) - 0.5, 24))
    assert "agree on every view" in str(collapse(0.3, 0.0, 24))
    assert collapse(0.6, 0.5, 24) is None


def test_a_run_that_does_not_learn_says_so_with_remedies(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """A teacher as soft as this answers alike for every image."""
    fit("--config", tiny(experiment(teacher_temp=100.0), "dino"))
    report = capsys.readouterr().err
    assert report.count("The loss is stuck at ln 24") == 1  # of two epochs
    assert "teacher temperature (0.02 to 0.04)" in report
