"""Distillation: the released code's losses, and a teacher that is frozen, adapted to, examined and left out."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.objectives.small import (
    BACKBONES,
    SMALL,
    batch,
    closed_form,
    quick_trainer,
)
from vitlab.data import Digits
from vitlab.models import ImageModel, TimmModel, VisionTransformer
from vitlab.models.weights import save_weights
from vitlab.objectives import Distillation, HardTarget, SoftTarget, Supervised, Teacher
from vitlab.objectives.distillation import Target
from vitlab.objectives.ema import Ema
from vitlab.objectives.teacher import renormalization
from vitlab.optim import AdamW, WarmupCosine

STUDENTS = BACKBONES | {
    "deit": lambda: VisionTransformer(patch_size=4, embed_dim=16, depth=2, num_heads=2, distilled=True, **SMALL)
}


def small_teacher() -> VisionTransformer:
    torch.manual_seed(1)
    return VisionTransformer(patch_size=4, embed_dim=16, depth=1, num_heads=2, **SMALL)


def distillation(student: str = "deit", target: Target | None = None, **kwargs: object) -> Distillation:
    teacher = Teacher(small_teacher())
    torch.manual_seed(0)
    return Distillation(
        STUDENTS[student](),
        teacher,
        target or HardTarget(),
        AdamW(3e-3),
        WarmupCosine(),
        **kwargs,  # type: ignore
    )


# ---- the losses, run once on the released code with inputs in closed form


def golden(target: Target, alpha: float, **corrections: Tensor) -> float:
    cls, dist = closed_form(4, 10, s=2.0), closed_form(4, 10, a=1.3, s=2.0)
    teacher = closed_form(4, 10, a=2.1, b=0.3, s=3.0)
    objective = distillation(target=target, alpha=alpha, label_smoothing=0.1)
    vars(objective)["_buffers"].update(corrections)
    objective.head_logits = lambda images: (cls, dist)  # type: ignore[method-assign, assignment]
    objective.teacher = lambda images: teacher  # type: ignore[assignment]
    return float(objective.loss([torch.empty(4, 1, 8, 8)], torch.tensor([0, 3, 7, 9])))


def test_hard_distillation_equals_the_released_codes() -> None:
    assert golden(HardTarget(), alpha=0.5) == pytest.approx(2.49549379377, abs=1e-10)


@pytest.mark.parametrize(("tau", "alpha", "expected"), [(1.0, 0.5, 1.38978795001), (3.0, 0.1, 2.41594634033)])
def test_soft_distillation_equals_the_released_codes(tau: float, alpha: float, expected: float) -> None:
    assert golden(SoftTarget(tau), alpha) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("target", [HardTarget(), SoftTarget()])
def test_uneven_classes_are_corrected_in_the_labels_term_alone(target: Target) -> None:
    cls, labels = closed_form(4, 10, s=2.0), torch.tensor([0, 3, 7, 9])
    values = torch.arange(1.0, 11).to(cls)
    weighted = nn.functional.cross_entropy(cls, labels, values, reduction="sum", label_smoothing=0.1) / 4
    changes = {"loss_weight_per_class": weighted}
    changes["adjustment"] = nn.functional.cross_entropy(cls + values, labels, label_smoothing=0.1)
    for name, expected in changes.items():
        changed = golden(target, 0.5, **{name: values}) - golden(target, 0.5)
        assert 2 * changed == pytest.approx(float(expected) - 2.65891562759, abs=1e-5)


def test_the_papers_soft_target_is_k_times_the_released_codes() -> None:
    logits, teacher = closed_form(4, 10, s=2.0), closed_form(4, 10, a=1.3)
    code, paper = SoftTarget(tau=3.0), SoftTarget(tau=3.0, per_class=False)
    torch.testing.assert_close(paper.loss(logits, teacher), 10 * code.loss(logits, teacher))


# ---- the student


def test_the_class_head_learns_the_label_and_the_distillation_head_the_teacher() -> None:
    objective = distillation(alpha=0.5)
    views, _ = batch()
    labels = (objective.teacher(views[0]).argmax(1) + 1) % 10  # the teacher is never right
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        objective.loss(views, labels).backward()
        optimizer.step()
    cls, dist = objective.head_logits(views[0])
    assert (cls.argmax(1) == labels).all()
    assert (dist.argmax(1) == objective.teacher(views[0]).argmax(1)).all()


def test_mixed_labels_are_learned() -> None:
    objective = distillation()
    views, labels = batch()
    one_hot = nn.functional.one_hot(labels, 10).float()
    torch.testing.assert_close(objective.loss(views, one_hot), objective.loss(views, labels))


def test_evaluation_gives_each_head_the_mean_of_logits_and_the_mean_of_probabilities() -> None:
    objective = distillation(ema=Ema(0.9)).eval()
    (images,), _ = batch()
    outputs = objective.outputs(images)
    assert set(outputs) == {"", "_class", "_distillation", "_prob", "_ema"}
    torch.testing.assert_close(outputs[""], (outputs["_class"] + outputs["_distillation"]) / 2)
    torch.testing.assert_close(outputs[""], objective.backbone(images))
    probabilities = (outputs["_class"].softmax(1) + outputs["_distillation"].softmax(1)) / 2
    torch.testing.assert_close(outputs["_prob"].exp(), probabilities)


# ---- the teacher


def test_the_teacher_is_no_part_of_the_objective() -> None:
    objective = distillation(ema=Ema(0.9))
    alone = {id(p) for p in objective.teacher.model.parameters()}
    assert not any(id(p) in alone for p in objective.parameters())
    assert not [name for name in objective.state_dict() if "teacher" in name]
    assert not any(module is objective.teacher.model for module in objective.modules())


def test_no_train_reaches_the_teacher() -> None:
    objective = distillation().train()
    assert not any(module.training for module in objective.teacher.model.modules())


def test_the_teacher_sees_its_own_normalization() -> None:
    mean, std, new_mean, new_std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), (0.1, 0.2, 0.6), (1.0, 0.5, 0.1)
    pixels = torch.rand(2, 3, 4, 4)

    def normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    scale, shift = renormalization(mean, std, new_mean, new_std)
    torch.testing.assert_close(normalize(mean, std) * scale + shift, normalize(new_mean, new_std))


def test_timms_weights_bring_their_normalization() -> None:
    """0.5 of both is that of vit_tiny_patch16_384's in timm's list; a run's weights know the data's alone."""
    model = TimmModel("vit_tiny_patch16_384", num_classes=10, model_kwargs={"depth": 1})
    half = (0.5, 0.5, 0.5)
    small = {"img_size": 16, "patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 1}
    assert Teacher(model).mean is None
    assert Teacher(model, weights="runs/teacher/seed-0").mean is None
    assert Teacher(model, weights="timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k").mean == half
    assert Teacher(VisionTransformer(**small), weights="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k").mean == half
    assert Teacher(model, weights="timm/vit_base_patch16_224.mae").mean == (0.485, 0.456, 0.406)  # of the tag
    for unknown in ("timm/no_such_model", "timm/vit_tiny_patch16_384.no_such_tag"):
        assert Teacher(model, weights=unknown).mean is None
    gray = VisionTransformer(in_chans=1, **small)
    assert Teacher(gray, weights="timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k").mean is None
    model.pretrained = True
    teacher = Teacher(model)
    assert teacher.mean == teacher.std == half
    assert Teacher(model, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)).mean == (0.1, 0.2, 0.3)
    teacher.prepare(torch.device("cpu"), (0.4, 0.4, 0.4), (0.2, 0.2, 0.2))
    pixels = torch.rand(1, 3, 2, 2)
    torch.testing.assert_close((pixels - 0.4) / 0.2 * teacher.scale + teacher.shift, (pixels - 0.5) / 0.5)


def test_the_teacher_sees_its_new_size() -> None:
    seen = []
    model = VisionTransformer(patch_size=4, embed_dim=16, depth=1, num_heads=2, **(SMALL | {"img_size": 16}))
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    Teacher(model)(batch(2)[0][0])
    assert seen == [(2, 1, 16, 16)]


def small_resnet() -> TimmModel:
    return TimmModel("resnet18", num_classes=10, in_chans=1, img_size=32)


@pytest.mark.parametrize("build", [small_teacher, small_resnet])
def test_a_teacher_from_a_run_is_the_average_that_the_run_kept(
    build: Callable[[], ImageModel], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Supervised(build(), AdamW(1e-3), WarmupCosine(), ema=Ema(0.9))
    for parameter in run.encoder.parameters():
        parameter.data += 0.01
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": run.state_dict()}, tmp_path / "checkpoints" / "last.ckpt")
    teacher = Teacher(build(), weights=str(tmp_path))
    logging.getLogger("vitlab").propagate = True
    with caplog.at_level(logging.INFO, "vitlab"):
        teacher.prepare(torch.device("cpu"), (0.5,), (0.5,))
    assert "last.ckpt, average.module." in caplog.text
    x = torch.randn(2, 1, *teacher.model.img_size)
    assert torch.equal(teacher(x), run.encoder.eval()(x))
    assert not torch.equal(teacher(x), run.backbone.eval()(x))


def test_an_untrained_teacher_is_refused_before_training() -> None:
    objective = distillation()
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    with pytest.raises(ValueError, match="The teacher classifies"):
        quick_trainer().fit(objective, datamodule=Digits(batch_size=64))
    assert all(torch.equal(before[name], value) for name, value in objective.state_dict().items())


# ---- what cannot work


def test_a_share_that_leaves_the_class_head_untrained_is_refused() -> None:
    with pytest.raises(ValueError, match="class head would learn nothing"):
        distillation(alpha=1.0)
    distillation("vit", alpha=1.0)  # a single head learns from the teacher alone
    with pytest.raises(ValueError, match="distillation head would learn nothing"):
        distillation(alpha=0.0)
    distillation("vit", alpha=0.0)  # a control


def test_a_teacher_of_other_classes_is_refused() -> None:
    teacher = Teacher(
        VisionTransformer(patch_size=4, embed_dim=16, depth=1, num_heads=2, **(SMALL | {"num_classes": 7}))
    )
    objective = Distillation(STUDENTS["vit"](), teacher, HardTarget(), AdamW(1e-3), WarmupCosine())
    with pytest.raises(ValueError, match="teacher has 7 classes and the student 10"):
        quick_trainer().fit(objective, datamodule=Digits(batch_size=64))


def test_a_teacher_of_no_model_and_no_run_is_refused() -> None:
    for weights in (None, "timm/resnet18.a1_in1k"):
        with pytest.raises(ValueError, match=r"teacher\.model is null .* name the model, or give a run's"):
            Teacher(weights=weights)


@pytest.mark.parametrize("names", [["c", "a", "b"], ["a", "b", "c"], ["a", "b", "d"]])
def test_logits_of_a_teacher_follow_the_names_of_the_classes(names: list[str], tmp_path: Path) -> None:
    arguments = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = VisionTransformer(**arguments)  # type: ignore[arg-type]
    backbone = {"class_path": "vitlab.models.VisionTransformer", "init_args": arguments}
    facts = {"backbone": backbone, "class_names": ["a", "b", "c"], "mean": [0.2], "std": [0.5]}
    save_weights(model, tmp_path / "model.safetensors", {key: json.dumps(value) for key, value in facts.items()})
    teacher, images = Teacher(weights=str(tmp_path)), torch.randn(2, 3, 8, 8)
    if {*names} != {*"abc"}:
        with pytest.raises(ValueError, match=f"knows the classes a, b, c; the data have {', '.join(names)}"):
            teacher.prepare(torch.device("cpu"), (0.2,), (0.5,), names)
        return
    teacher.prepare(torch.device("cpu"), (0.2,), (0.5,), names)
    expected = model.eval()(images)[:, ["abc".index(name) for name in names]]
    torch.testing.assert_close(teacher(images), expected)
    teacher.cache = str(tmp_path / "cache")
    plain = Teacher(model, cache=teacher.cache)
    plain.prepare(torch.device("cpu"), (0.2,), (0.5,))
    same = teacher.open_cache("32").folder == plain.open_cache("32").folder  # type: ignore[union-attr]
    assert same == (names == ["a", "b", "c"])


@pytest.mark.parametrize(
    ("right", "images", "classes", "verdict"),
    [
        (3, 3, 3, "too few images"),
        (14, 20, 2, "too few images"),
        (20, 20, 2, "correctly."),
        (10, 20, 2, "Train it first"),
        (0, 6, 3, "Train it first"),
        (300, 1000, 100, "correctly."),
        (540, 1000, 2, "Train it first"),
    ],
)
def test_a_teacher_is_refused_where_its_images_tell(
    right: int, images: int, classes: int, verdict: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The binomial tail and its complement decide; labels are balanced, and `right` of the answers are theirs."""
    labels = torch.arange(images) % classes
    answers = torch.where(torch.arange(images) < right, labels, (labels + 1) % classes)
    monkeypatch.setattr(Teacher, "__call__", lambda self, x: torch.nn.functional.one_hot(x[:, 0, 0, 0].long()))
    teacher = Teacher(VisionTransformer(8, 4, 1, classes, embed_dim=16, depth=1, num_heads=2))
    batch = ([answers.float().view(-1, 1, 1, 1)], labels)
    caplog.set_level("INFO")
    if verdict == "Train it first":
        with pytest.raises(ValueError, match=verdict):
            teacher.examine([batch])
    else:
        teacher.examine([batch])
        assert verdict in caplog.text
