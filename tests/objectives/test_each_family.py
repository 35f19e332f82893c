"""What is the same of every objective, and on each family of the README's table."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.kills import OBJECTIVES, SWIN, VIT
from tests.objectives.small import BACKBONES, encode_hiding, overfit_one_batch, views_for, wake, without_gradient
from tests.objectives.small import OBJECTIVES as BUILDERS
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.objectives import Objective, Teacher

SWIN_V1 = {**SWIN, "class_path": "vitlab.models.SwinTransformer"}
FAMILIES = {"vit": VIT, "swin": SWIN_V1, "swin_v2": SWIN}


PAIRS = [(name, family) for name in BUILDERS for family in BACKBONES if name != "mae" or family == "vit"]


def built(name: str, family: str) -> Objective:
    torch.manual_seed(0)
    return BUILDERS[name](BACKBONES[family]())


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_every_trained_parameter_gets_a_gradient_and_a_teacher_none(name: str, family: str) -> None:
    objective = built(name, family)
    wake(objective)
    objective.loss(*views_for(name)).backward()
    assert without_gradient(objective) == []
    teacher: Any = getattr(objective, "teacher", None)
    if teacher is not None:
        assert all(p.grad is None and not p.requires_grad for p in getattr(teacher, "model", teacher).parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_backbone_that_is_given_keeps_its_weights(name: str) -> None:
    """Whoever gives a trained model to an objective means its weights; only its classifier is left out."""
    backbone = BACKBONES["vit"]()
    before = copy.deepcopy(backbone.state_dict())
    BUILDERS[name](backbone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["ibot", "data2vec"])
@pytest.mark.parametrize("family", BACKBONES)
def test_the_student_does_not_see_hidden_patches(name: str, family: str) -> None:
    """Of a Swin, patches are the tokens it ends with, 2 × 2 of its own."""
    objective = built(name, family)
    wake(objective)
    images, side = torch.randn(3, 1, 8, 8), BACKBONES[family]().stride
    mask = torch.rand(3, 8 // side, 8 // side) < 0.5
    pixels = mask.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None]
    before = encode_hiding(objective, images, mask).patches
    torch.testing.assert_close(encode_hiding(objective, images + pixels, mask).patches, before)
    assert not torch.allclose(encode_hiding(objective, images + ~pixels, mask).patches, before, atol=1e-4)


# At chance a label costs ln 10 = 2.3; label and teacher, which may differ, cost ln 2 at the least. A constant leaves
# 0.8 of normal noise, the mean of |x|, and 3/4 of a patch whose variance is the unbiased one of 4 values.
LEFT = {"supervised": 0.1, "distillation": 0.9, "simmim": 0.15, "mae": 0.2}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "family"), [pair for pair in PAIRS if pair[0] in LEFT])
def test_one_batch_is_learned(name: str, family: str) -> None:
    assert overfit_one_batch(built(name, family), steps=300) < LEFT[name]


# Beside what a backbone names itself.
UNDECAYED = {
    ("dino", "vit"): set(),
    ("mae", "vit"): set(),
    ("simmim", "swin_v2"): {"mask_token"},
    ("data2vec", "vit"): {"backbone.cls_token", "backbone.pos_embed"},  # modeling_cyclical.py's no_weight_decay
    ("msn", "vit"): {"prototypes.weight_v"},
}


@pytest.mark.parametrize(("pair", "expected"), UNDECAYED.items(), ids=[name for name, _ in UNDECAYED])
def test_what_is_not_decayed_is_as_released(pair: tuple[str, str], expected: set[str]) -> None:
    assert built(*pair).no_weight_decay() == expected


TRAINED = {"supervised": "swin", "distillation": "vit", "simmim": "swin_v2", "dino": "swin", "mae": "vit", "msn": "vit"}
SHORT: Config = {
    "data": {"init_args": {"batch_size": 16}},
    "trainer": {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1},
}


@pytest.mark.parametrize(("name", "family"), TRAINED.items())
def test_two_steps_change_every_weight_that_has_a_gradient(
    name: str, family: str, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Teacher, "examine", lambda *args: None)  # two steps make no teacher
    changes = merge(SHORT, OBJECTIVES[name])
    changes["model"]["init_args"]["backbone"] = FAMILIES[family]
    assert run("fit", ["--config", str(tiny(changes))]) == 0
    directory = Path("runs/tiny/seed-0")
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["steps"] == 2
    assert math.isfinite(summary["metrics"]["train/loss"])
    state = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    moments = [each for each in state["optimizer_states"][0]["state"].values() if "exp_avg" in each]
    assert len(moments) > 20
    assert sum(bool(each["exp_avg"].any()) for each in moments) > 0.8 * len(moments)
