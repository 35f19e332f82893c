"""What all objectives share: the schedule's length, the learning rate that is logged, and building one again."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.objectives.small import BACKBONES, batch, quick_trainer
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import Digits
from vitlab.models.stored import build
from vitlab.objectives import MAE, Objective, Supervised
from vitlab.optim import AdamW, Schedule, WarmupCosine, WarmupSteps

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning calls what torch has deprecated
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*max_epochs=-1"),
]


def supervised(schedule: Schedule | None = None) -> Supervised:
    torch.manual_seed(0)
    return Supervised(BACKBONES["vit"](), AdamW(3e-3), schedule or WarmupCosine(warmup_epochs=1, min_lr=1e-5))


# ---- the schedule's length


def rates(epochs: int, schedule: Schedule | None = None, **limits: object) -> list[float]:
    """Return the learning rate of each step of a run of 8 batches, which are 4 steps, an epoch."""
    objective, seen = supervised(schedule), []
    objective.on_before_optimizer_step = lambda optimizer: seen.append(optimizer.param_groups[0]["lr"])  # type: ignore
    trainer = quick_trainer(epochs, limit_train_batches=8, limit_val_batches=0, accumulate_grad_batches=2, **limits)
    trainer.fit(objective, datamodule=Digits(batch_size=8))
    return seen


@pytest.mark.parametrize("epochs", [-1, 10])
def test_an_epoch_of_warmup_is_an_epoch_also_of_a_run_that_ends_after_so_many_steps(epochs: int) -> None:
    """Ten steps of four an epoch are 2.5 epochs."""
    schedule = WarmupCosine(warmup_epochs=1, min_lr=1e-5)
    expected = [schedule.lr(3e-3, step, 10, 2.5) for step in range(10)]
    assert expected[4] == 3e-3
    assert rates(epochs, max_steps=10) == pytest.approx(expected)


def test_a_run_that_ends_by_the_clock_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set trainer\.max_epochs or trainer\.max_steps"):
        rates(-1, max_time="00:00:01:00")


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (WarmupCosine(warmup_epochs=1), "The run has 1 epochs and warmup_epochs is 1: all of it is warm-up."),
        (
            WarmupSteps(milestones=(1, 7)),
            "The run has 1 epochs and the first of milestones is 1: the rate never falls.",
        ),
    ],
)
def test_a_run_that_ends_before_its_schedule_begins_is_named(
    schedule: Schedule, said: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("vitlab"), "propagate", True)
    with caplog.at_level("WARNING", "vitlab"):
        rates(2, schedule)
        assert not caplog.records
        rates(1, schedule)
    (message,) = {record.message for record in caplog.records}
    assert message.startswith(said)


def test_rates_that_rise_to_their_end_are_named(capsys: pytest.CaptureFixture[str], tiny: Callable[..., Path]) -> None:
    optimizer: Config = {"lr": 1e-3, "layer_decay": 0.1}
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1}
    for by_layer in (True, False):
        schedule = {"init_args": {"min_lr": 1e-5, "scale_with_layer": by_layer, "warmup_epochs": 0.0}}
        model: Config = {"init_args": {"optimizer": {"init_args": optimizer}, "schedule": schedule}}
        assert run("fit", ["--config", str(tiny({"model": model, "trainer": short})), "--run.name", f"{by_layer}"]) == 0
        assert ("min_lr 1e-05 is above the peak of" in capsys.readouterr().err) != by_layer


@pytest.mark.slow
def test_the_highest_learning_rate_stands_in_the_metrics(tiny: Callable[..., Path]) -> None:
    """As an epoch of 16 steps ends: with the head's own rate, layer decay, and after both of two epochs."""
    optimizer: Config = {"lr": 1e-3, "layer_decay": 0.5, "head_lr": 2e-3}
    model: Config = {"init_args": {"optimizer": {"init_args": optimizer}, "schedule": {"init_args": {"min_lr": 1e-5}}}}
    path = tiny({"model": model, "trainer": {"max_epochs": 2, "limit_val_batches": 1, "limit_test_batches": 1}})
    assert run("fit", ["--config", str(path)]) == 0
    seen = pd.read_csv("runs/tiny/seed-0/metrics.csv")["lr"].dropna().tolist()
    schedule = WarmupCosine(warmup_epochs=0.5, min_lr=1e-5)
    assert seen == pytest.approx([schedule.lr(2e-3, 16, 32, 2), 1e-5], rel=1e-6)


# ---- without a Trainer


@pytest.mark.slow
def test_an_objective_comes_back_from_its_checkpoint_alone(tiny: Callable[..., Path]) -> None:
    short = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}
    path = tiny({"trainer": short, "model": {"init_args": {"ema": {"decay": 0.5}}}})
    assert run("fit", ["--config", str(path)]) == 0
    checkpoint = Path("runs/tiny/seed-0/checkpoints/last.ckpt")
    stored = torch.load(checkpoint, weights_only=True)["state_dict"]
    for kind in (Supervised, Objective):
        objective = kind.load_from_checkpoint(checkpoint).eval()  # type: ignore[type-abstract]
        assert type(objective) is Supervised
        assert all(torch.equal(stored[key], value) for key, value in objective.state_dict().items())
        (images,), _ = batch()
        assert torch.equal(objective(images), objective.encoder(images))
    with pytest.raises(ValueError, match="contains a Supervised, not a MAE"):
        MAE.load_from_checkpoint(checkpoint)


def test_what_a_model_of_timms_started_from_need_not_be_there_any_more(tiny: Callable[..., Path]) -> None:
    """No network, as `HF_HUB_OFFLINE` is set, and no file."""
    arguments: Config = {"name": "test_vit", "num_classes": 10, "in_chans": 1, "img_size": 8}
    arguments |= {"model_kwargs": {"patch_size": 4}, "pretrained": True, "checkpoint_path": "gone.safetensors"}
    model: Config = yaml.safe_load(tiny().read_text())["model"]
    model["init_args"]["backbone"] = {"class_path": "vitlab.models.TimmModel", "init_args": arguments}
    trained = build(Supervised, model)
    torch.save({"state_dict": trained.state_dict(), "vitlab_config": {"model": model}}, "run.ckpt")
    (images,), _ = batch()
    assert torch.equal(Supervised.load_from_checkpoint("run.ckpt").eval()(images), trained.eval()(images))


def test_a_checkpoint_of_a_plain_trainer_asks_for_the_arguments(tmp_path: Path) -> None:
    objective = supervised()
    trainer = quick_trainer(limit_train_batches=2, limit_val_batches=0)
    trainer.fit(objective, datamodule=Digits(batch_size=8))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(TypeError, match=r"missing .* required .*argument.*'backbone'"):
        Supervised.load_from_checkpoint(tmp_path / "plain.ckpt")
    again = Supervised.load_from_checkpoint(
        tmp_path / "plain.ckpt", backbone=BACKBONES["vit"](), optimizer=AdamW(1e-3), schedule=WarmupCosine()
    )
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), objective.parameters(), strict=True))


def test_loaders_without_a_data_module_are_refused() -> None:
    data = Digits(batch_size=8)
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    with pytest.raises(ValueError, match=r"Supervised needs the number of classes.*datamodule="):
        quick_trainer().fit(supervised(), **loaders)
    with pytest.raises(ValueError, match=r"Supervised needs the number of classes.*datamodule="):
        quick_trainer().validate(supervised(), dataloaders=loaders["val_dataloaders"])
