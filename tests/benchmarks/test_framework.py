"""A run and a plain loop: the same arithmetic, so that they differ only in what surrounds it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from benchmarks import framework
from benchmarks.measuring import WARM_UP
from vitlab.config import Config

RECIPE: Config = {
    "data": {
        "init_args": {"batch_size": 32, "mixup": {"mixup_alpha": 0.8}, "augment": {"shift": 1, "erase_prob": 0.3}}
    },
    "model": {"init_args": {"label_smoothing": 0.1, "optimizer": {"init_args": {"layer_decay": 0.75}}}},
}


def test_the_plain_loop_reaches_the_runs_weights(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the bit, beyond the end of an epoch."""
    equal: list[bool] = []

    def compare(self: framework.InterleavePlainLoop, trainer: Trainer, pl_module: LightningModule) -> None:
        ours, plain = pl_module.backbone.state_dict(), self.plain.model.state_dict()
        equal.extend(torch.equal(ours[name], plain[name]) for name in ours)
        self.file.write_text(json.dumps(self.seconds))

    monkeypatch.setattr(framework.InterleavePlainLoop, "on_train_end", compare)
    framework.main(["--config", str(tiny(RECIPE)), "--steps", "40"])
    assert equal
    assert all(equal)
    assert "times as long within the framework" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_the_median_of_neighbors_counts_after_the_warm_up() -> None:
    plain = [1.0] * WARM_UP + [2.0, 4.0, 8.0]
    seconds = {"plain": plain, "run": [9.0] * WARM_UP + [2.2, 4.0, 8.4]}
    assert framework.overhead(seconds) == pytest.approx((1.025, 1.05, 1.075))
