"""Objective and data module in a plain `lightning.Trainer`, without the command line."""

from pathlib import Path

import pytest
import torch

from tests.objectives.small import BACKBONES, OBJECTIVES, quick_trainer
from vitlab.data import Digits
from vitlab.models.weights import load_weights
from vitlab.objectives import Pretraining, Supervised
from vitlab.objectives.ema import Ema, WeightAverage
from vitlab.optim import AdamW, WarmupCosine

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),  # Lightning calls what torch has deprecated
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
]
SHORT = {"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}


def supervised(ema: Ema | None = None) -> Supervised:
    torch.manual_seed(0)
    return Supervised(BACKBONES["vit"](), AdamW(3e-3), WarmupCosine(), ema=ema)


def test_fit_validate_test_and_predict_with_an_average_of_the_weights(tmp_path: Path) -> None:
    objective, trainer, data = supervised(Ema(0.5)), quick_trainer(**SHORT), Digits(batch_size=8)
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
