"""A loss or gradient that is not finite costs one step, and its images are named."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import timm.optim
import torch
from torch import Tensor

from tests.conftest import edges
from tests.gpu import no_waiting
from tests.objectives.small import BACKBONES, quick_trainer
from vitlab.commands.dispatch import run
from vitlab.data import Digits
from vitlab.objectives import Supervised
from vitlab.optim import SGD, AdamW, Optimizer, WarmupCosine
from vitlab.runs.finite_steps import Check, FiniteSteps, all_finite

RUN = Path("runs/tiny/seed-0")

HUGE_STEPS = {
    "model": {"init_args": {"optimizer": {"init_args": {"lr": 1e25}}, "schedule": {"init_args": {"warmup_epochs": 0}}}}
}


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that makes the loss NaN at one step."""

    def poison(step: int) -> None:
        loss = Supervised.loss

        def sometimes(self: Supervised, views: list[Tensor], labels: Tensor) -> Tensor:
            return loss(self, views, labels) * (float("nan") if self.global_step == step else 1.0)

        monkeypatch.setattr(Supervised, "loss", sometimes)

    return poison


def test_the_run_stops_before_the_step_and_names_its_images(
    tiny: Callable[..., Path], poisoned: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    poisoned(3)
    assert run("fit", ["--config", str(tiny()), "--run.checkpoint.every_n_steps", "1"]) == 1
    names = Digits(batch_size=64).training_batch(0, 3, torch.device("cpu"))[1]
    said = capsys.readouterr().err
    images = f"{names[0]}, {names[1]}, {names[2]} …"
    assert f"Step 3: loss or gradient not finite, with {images}; the run stops before it, and the same command" in said
    last = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 3
    assert all(bool(torch.isfinite(value).all()) for value in last["state_dict"].values())
    assert not (RUN / "summary.json").exists()


def test_where_asked_the_run_goes_on_and_counts(
    tiny: Callable[..., Path], poisoned: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    poisoned(3)
    assert run("fit", ["--config", str(tiny({"trainer": {"limit_train_batches": 5}})), "--run.not_finite", "skip"]) == 0
    assert "Step 3 is skipped" in capsys.readouterr().err
    assert pd.read_csv(RUN / "metrics.csv")["train/steps_left_out"].dropna().tolist() == [1]
    last = torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)
    assert all(bool(torch.isfinite(value).all()) for value in last["state_dict"].values())
    steps = {float(state["step"]) for state in last["optimizer_states"][0]["state"].values()}
    assert steps == {last["global_step"] - 1.0}  # AdamW counts the steps it took


def test_a_run_that_is_past_help_ends_all_the_same(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitlab.runs.finite_steps.MAX_CONSECUTIVE", 2)
    path = tiny(HUGE_STEPS)
    assert run("fit", ["--config", str(path), "--run.not_finite", "skip"]) == 1


INFINITE = float("inf")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_one_number_in_any_gradient_is_found(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    sound = [torch.randn(5, 7, device=device), torch.full((3,), 1e37, device=device)]
    assert bool(all_finite(sound))
    for values in ([float("nan")], [INFINITE], [-INFINITE], [INFINITE, -INFINITE]):
        for place in range(2):
            tensors = [tensor.clone() for tensor in sound]
            tensors[place].flatten()[: len(values)] = torch.tensor(values, device=device)
            assert not bool(all_finite(tensors)), (values, place)


@pytest.mark.gpu
def test_no_step_waits_for_its_check() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    finite = torch.zeros((), dtype=torch.bool, device="cuda")
    with no_waiting():
        check = Check(finite, 0, 0, 0)
    assert not check.result()


@pytest.mark.parametrize(("precision", "status"), [("16-true", 2), ("bf16-mixed", 0)])
def test_weights_in_other_precision_are_refused(tiny: Callable[..., Path], precision: str, status: int) -> None:
    assert run("fit", ["--config", str(tiny()), "--trainer.precision", precision]) == status


def test_a_swin_in_mixed_float16_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    from vitlab.experiment.experiment import check_precision

    for name, backbone in BACKBONES.items():
        caplog.clear()
        with caplog.at_level("WARNING", "vitlab"):
            check_precision("16-mixed", Supervised(backbone(), AdamW(1e-3), WarmupCosine()))
        assert bool(caplog.records) == name.startswith("swin"), name


@dataclass
class OfAnyKind(Optimizer):
    """A user's settings of an optimizer that is not vitlab's.

    Args:
        kind: Its class.
        only_matrices: Leave out what torch's Muon refuses.
    """

    kind: Callable[..., torch.optim.Optimizer] = torch.optim.RMSprop
    only_matrices: bool = False

    def build(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        parts = [
            {"params": [p for p in group["params"] if p.ndim == 2 or not self.only_matrices], "lr": group["lr"]}
            | {"weight_decay": group["weight_decay"]}
            for group in groups
        ]
        return self.kind([part for part in parts if part["params"]], lr=self.lr)


OF_TORCH = ("RMSprop", "RAdam", "ASGD", "Adafactor", "AdamW", "SGD")  # the last two not asked for their fused kernels
OF_TIMM = ("Lamb", "Muon")
OPTIMIZERS = {
    "fused AdamW": AdamW(1e-3),
    "fused SGD": SGD(1e-3),
    "torch.Muon": OfAnyKind(1e-3, kind=torch.optim.Muon, only_matrices=True),
    **{f"torch.{name}": OfAnyKind(1e-3, kind=getattr(torch.optim, name)) for name in OF_TORCH},
    **{f"timm.{name}": OfAnyKind(1e-3, kind=getattr(timm.optim, name)) for name in OF_TIMM},
}


def trained(optimizer: Optimizer, draws: list[int | None]) -> tuple[list[Tensor], dict[str, Any]]:
    """Train a step on each random batch, a NaN where it is None; return the weights and the optimizer's state."""

    class Drawn(Supervised):
        def loss(self, views: list[Tensor], labels: Tensor) -> Tensor:
            draw = draws[self.global_step]
            images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(draw or 0))
            return super().loss([images], torch.arange(8)) * (float("nan") if draw is None else 1.0)

    torch.manual_seed(0)
    objective = Drawn(BACKBONES["vit"](), optimizer, WarmupCosine(min_lr=optimizer.lr))
    trainer = quick_trainer(callbacks=[FiniteSteps("skip")], limit_train_batches=len(draws), limit_val_batches=0)
    trainer.fit(objective, datamodule=Digits(batch_size=8))
    (built,) = trainer.optimizers
    return list(objective.parameters()), built.state_dict()


@pytest.mark.parametrize("name", ["fused AdamW", "fused SGD", *edges(*[*OPTIMIZERS][2:])])
def test_a_step_left_out_leaves_no_trace_in_any_optimizer(name: str) -> None:
    """The run without such steps is the expectation: the same weights, moments and counters of steps.

    Of the fused ones too, also in the first step, in which torch's SGD makes its momentum.
    """
    optimizer = OPTIMIZERS[name]
    weights, state = trained(optimizer, [None, 1, None, 2])
    expected_weights, expected_state = trained(optimizer, [1, 2])
    assert all(torch.equal(*pair) for pair in zip(weights, expected_weights, strict=True))
    torch.testing.assert_close(state["state"], expected_state["state"], rtol=0, atol=0)
    for group, expected in zip(state["param_groups"], expected_state["param_groups"], strict=True):
        assert group == expected
