"""Objectives train families of the README's table for two steps of their own experiment.

Gradients of every pair are tested beside each objective.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.kills import OBJECTIVES, SWIN, VIT
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.objectives import Teacher

SWIN_V1 = {**SWIN, "class_path": "vitlab.models.SwinTransformer"}
FAMILIES = {"vit": VIT, "swin": SWIN_V1, "swin_v2": SWIN}
TRAINED = {"supervised": "swin", "distillation": "vit", "simmim": "swin_v2", "dino": "swin", "mae": "vit", "msn": "vit"}
SHORT: Config = {
    "data": {"init_args": {"batch_size": 16}},
    "trainer": {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1},
}


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
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
