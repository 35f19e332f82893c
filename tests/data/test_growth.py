"""Training images that grow over the run."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.kills import continued_after_a_kill
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import Digits, Growth, MultiCrop
from vitlab.evaluation.cost import flops_of
from vitlab.experiment.experiment import Experiment
from vitlab.experiment.noise import flops_per_image
from vitlab.models import VisionTransformer
from vitlab.objectives import Supervised

GROWING: Config = {
    "data": {"init_args": {"image_size": 16, "grow": {"start": 8, "step": 4, "until": 0.5}}},
    "trainer": {"max_epochs": 2, "limit_train_batches": 6, "limit_val_batches": 1, "limit_test_batches": 1},
    "run": {"checkpoint": {"every_n_steps": 4, "max_time_share": 1.0}},
}


def test_sizes_share_the_first_part_of_the_run() -> None:
    growth = Growth(start=16, step=4, until=0.6)
    assert growth.sides(32) == [16, 20, 24, 28, 32]
    assert [growth.side(32, x) for x in (0, 0.149, 0.151, 0.449, 0.451, 0.599, 0.6, 1)] == [
        16,
        16,
        20,
        24,
        28,
        28,
        32,
        32,
    ]
    found = Counter(growth.side(32, step / 1000) for step in range(1000))
    assert {side: n / 1000 for side, n in found.items()} == pytest.approx(growth.shares(32), abs=0.001)
    assert Growth(start=10, step=4).sides(16) == [10, 14, 16]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of training on noise
def test_training_images_grow_and_validation_images_do_not(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """FLOPs are counted for each size; a batch that is computed again has the size that it had."""
    sides: list[int] = []
    evaluated: set[int] = set()
    again: list[int] = []
    loss, forward = Supervised.loss, VisionTransformer.forward

    def watched(self: Supervised, views: list[Tensor], labels: Tensor) -> Tensor:
        (view,) = views
        sides.append(view.shape[-1])
        epoch, number = divmod(len(sides) - 1, 6)
        again.append(self.trainer.datamodule.training_batch(epoch, number, self.device)[0][0][0].shape[-1])  # type: ignore[attr-defined]
        return loss(self, views, labels)

    def seen(self: VisionTransformer, images: Tensor) -> Any:
        if not self.training:
            evaluated.add(images.shape[-1])
        return forward(self, images)

    monkeypatch.setattr(Supervised, "loss", watched)
    monkeypatch.setattr(VisionTransformer, "forward", seen)
    path = tiny(GROWING)
    assert run("fit", ["--config", str(path)]) == 0
    assert sides == again == [8] * 3 + [12] * 3 + [16] * 6
    assert evaluated == {16}

    model = VisionTransformer(img_size=16, in_chans=1, num_classes=10, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    labels = torch.arange(64) % 10
    flops = {
        side: flops_of(lambda s=side: cross_entropy(model(torch.randn(64, 1, s, s)), labels).backward())  # type: ignore[misc]
        for side in (8, 12, 16)
    }
    table = pd.read_csv("runs/tiny/seed-0/metrics.csv").dropna(subset="tflops")
    counted = (1e12 * table.tflops / (table.images_per_second / 64)).tolist()
    assert counted == pytest.approx([(flops[8] + flops[12]) / 2, flops[16]], rel=0.05)
    monkeypatch.undo()
    assert flops_per_image(Experiment(path).config) == pytest.approx(
        (0.25 * flops[8] + 0.25 * flops[12] + 0.5 * flops[16]) / 64, rel=0.01
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork of this process is killed")
def test_a_killed_run_continues_to_the_bit(tiny: Callable[..., Path]) -> None:
    continued_after_a_kill(["--config", str(tiny(GROWING))], step=5)  # among those of 12 pixels


def test_sizes_that_patches_do_not_divide_are_refused_before_training(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", ["--config", str(tiny(GROWING)), "--data.grow.step", "6"]) == 2
    assert "Images of (14, 14) px do not divide into patches of 4 px" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"grow": Growth(start=8, step=4)}, "grow.start is 8; give less than image_size, 8"),
        (
            {"image_size": 16, "grow": Growth(start=8, step=4), "multi_crop": MultiCrop()},
            "grow and multi_crop are both on",
        ),
    ],
)
def test_settings_that_contradict_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Digits(**wrong)
