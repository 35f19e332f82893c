"""A run beside a plain loop: the same arithmetic, so that only what surrounds it differs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from tests.conftest import TINY
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.studies.overhead import WARM_UP, BesideBareLoop, share

RECIPE: Config = {
    "data": {
        "init_args": {"batch_size": 32, "mixup": {"mixup_alpha": 0.8}, "augment": {"shift": 1, "erase_prob": 0.3}}
    },
    "model": {"init_args": {"label_smoothing": 0.1, "optimizer": {"init_args": {"layer_decay": 0.75}}}},
}


def test_the_plain_loop_reaches_the_runs_weights(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, over the end of an epoch: neither of the two does anything that the other does not."""
    compared: list[bool] = []

    def compare(self: BesideBareLoop, trainer: Trainer, pl_module: LightningModule) -> None:
        ours, bare = pl_module.backbone.state_dict(), self.bare.model.state_dict()
        compared.extend(torch.equal(ours[name], bare[name]) for name in ours)
        self.file.write_text(json.dumps(self.seconds))

    monkeypatch.setattr(BesideBareLoop, "on_train_end", compare)
    assert run("benchmark", ["framework", "--config", str(tiny(RECIPE)), "--steps", "40", "--starts", "0"]) == 0
    assert compared
    assert all(compared)


def test_the_share_is_told(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("benchmark", ["framework", "--config", str(tiny()), "--steps", "4", "--starts", "0"]) == 0
    assert "times as long within the framework" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_the_median_of_neighbors_counts_after_the_warm_up() -> None:
    bare = [1.0] * WARM_UP + [2.0, 4.0, 8.0]
    seconds = {"bare": bare, "run": [9.0] * WARM_UP + [2.2, 4.0, 8.4]}
    assert share(seconds) == pytest.approx((1.025, 1.05, 1.075))


AVERAGED: Config = {"init_args": {"ema": {"decay": 0.9}}}
MASKED: Config = {"class_path": "vitlab.objectives.MAE", "init_args": TINY["model"]["init_args"]}


@pytest.mark.parametrize("model", [AVERAGED, MASKED])
def test_other_objectives_are_refused(
    model: Config, tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("benchmark", ["framework", "--config", str(tiny({"model": model}))]) == 2
    assert "give a Supervised experiment, ema: null" in capsys.readouterr().err
