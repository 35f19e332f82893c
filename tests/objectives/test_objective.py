"""What all objectives share: the schedule's length, the learning rate that is logged, and building one again."""

import logging
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from tests.objectives.small import BACKBONES, OBJECTIVES, batch, quick_trainer
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import Digits
from vitlab.models.stored import build
from vitlab.models.weights import load_weights
from vitlab.objectives import MAE, Objective, Pretraining, Supervised
from vitlab.objectives.ema import Ema, WeightAverage
from vitlab.optim import AdamW, Schedule, WarmupCosine, WarmupSteps


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


def test_loaders_without_a_data_module_are_refused() -> None:
    data = Digits(batch_size=8)
    loaders = {"train_dataloaders": data.train_dataloader(), "val_dataloaders": data.val_dataloader()}
    with pytest.raises(ValueError, match=r"Supervised needs the number of classes.*datamodule="):
        quick_trainer().fit(supervised(), **loaders)
    with pytest.raises(ValueError, match=r"Supervised needs the number of classes.*datamodule="):
        quick_trainer().validate(supervised(), dataloaders=loaders["val_dataloaders"])


# Objective and data module in a plain `lightning.Trainer`, without the command line


SHORT = {"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}


def averaging(ema: Ema | None = None) -> Supervised:
    torch.manual_seed(0)
    return Supervised(BACKBONES["vit"](), AdamW(3e-3), WarmupCosine(), ema=ema)


def test_fit_validate_test_and_predict_with_an_average_of_the_weights(tmp_path: Path) -> None:
    objective, trainer, data = averaging(Ema(0.5)), quick_trainer(**SHORT), Digits(batch_size=8)
    trainer.fit(objective, datamodule=data)
    for results, split in (
        (trainer.validate(objective, datamodule=data, verbose=False), "val"),
        (trainer.test(objective, datamodule=data, verbose=False), "test"),
    ):
        assert {f"{split}/top1", f"{split}_ema/top1"} <= results[0].keys()
    predictions = trainer.predict(objective, datamodule=data)
    assert predictions is not None
    assert predictions[0].keys() == {"label", "logits", "logits_ema"}  # type: ignore[union-attr]

    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert torch.load(tmp_path / "plain.ckpt", weights_only=True)["vitlab_encoder"] == "average.module."
    backbone = BACKBONES["vit"]()
    load_weights(backbone, tmp_path / "plain.ckpt")
    average = objective.encoder.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in backbone.state_dict().items())


def test_the_best_epoch_of_a_pretraining_without_a_teacher_is_of_the_lowest_validation_loss() -> None:
    objective, trainer = OBJECTIVES["simmim"](BACKBONES["swin"]()), quick_trainer(**SHORT)
    trainer.fit(objective, datamodule=Digits(batch_size=8))
    assert "val/loss" in trainer.callback_metrics
    assert objective.monitor == ("val/loss", "min")


class OwnTeacher(Pretraining):
    """A pre-training that adds a moving teacher itself, and whose file has several encoders under unknown names."""

    def __init__(self) -> None:
        super().__init__(BACKBONES["vit"](), AdamW(1e-3), WarmupCosine())
        self.slow = WeightAverage(self.backbone)

    @property
    def encoder(self):  # type: ignore[no-untyped-def]
        return self.slow.module

    def loss(self, views, labels):  # type: ignore[no-untyped-def]
        return (self.backbone(views[0]) - self.slow.module(views[0]) + 1).square().mean()


def test_the_encoder_of_somebodys_objective_is_found_by_what_its_checkpoint_says(tmp_path: Path) -> None:
    """Without it, both networks would fit, and the known prefixes would choose the trained one."""
    objective, trainer = OwnTeacher(), quick_trainer(limit_train_batches=2, limit_val_batches=0)
    trainer.fit(objective, datamodule=Digits(batch_size=8))
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    checkpoint = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert checkpoint.pop("vitlab_encoder") == "slow.module."
    torch.save(checkpoint, tmp_path / "old.ckpt")
    for file, source in (("own", objective.slow.module), ("old", objective.backbone)):
        model = BACKBONES["vit"]()
        load_weights(model, tmp_path / f"{file}.ckpt")
        assert torch.equal(model.state_dict()["norm.weight"], source.state_dict()["norm.weight"])
        assert torch.equal(model.state_dict()["pos_embed"], source.state_dict()["pos_embed"])


def test_a_moving_teacher_is_not_ranked_by_its_loss() -> None:
    """It falls also as all features become alike, and best.ckpt would follow it there."""
    assert OwnTeacher().monitor is None
