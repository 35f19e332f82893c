"""What colleagues bring along: optimizer, schedule, callback and loggers of theirs or of Lightning, by `class_path`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import f1_score
from torchvision.transforms import v2

from tests.noise import make_noise
from vitlab.commands.dispatch import run
from vitlab.data.photos import transformed
from vitlab.evaluation.predictions import read_predictions
from vitlab.experiment.experiment import Experiment
from vitlab.optim import Schedule
from vitlab.runs.exactness import disagreements
from vitlab.runs.record import RunRecord

Write = Callable[..., Path]


class SignSGD(torch.optim.Optimizer):
    """An optimizer of a user's own (Bernstein et al. 2018)."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.sub_(group["lr"] * parameter.grad.sign())
        return loss


@dataclass(kw_only=True)
class Halving(Schedule):
    """A schedule of a user's own: half the rate in every quarter of the run."""

    def after_warmup(self, peak: float, step: int, steps: int, epochs: float, warmup: float) -> float:
        return peak * 0.5 ** (4 * step // max(steps, 1))


class CountsImages(Callback):
    """A callback of a user's own, with a state and a metric."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, i: int) -> None:
        self.seen += len(batch[1])
        module.log("images_seen", float(self.seen), on_step=False, on_epoch=True, reduce_fx="max")

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = state_dict["seen"]


HABITS = {
    "model": {
        "init_args": {
            "optimizer": {
                "class_path": "vitlab.optim.AnyOptimizer",
                "init_args": {"lr": 1e-3, "weight_decay": 0.0, "optimizer": f"{__name__}.SignSGD"},
            },
            "schedule": {"class_path": f"{__name__}.Halving", "init_args": {"warmup_epochs": 0}},
        }
    },
    "trainer": {
        "max_epochs": 9,
        "callbacks": [
            {"class_path": f"{__name__}.CountsImages"},
            {"class_path": "LearningRateMonitor", "init_args": {"logging_interval": "epoch"}},
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss", "patience": 1, "min_delta": 10.0}},
        ],
        "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
    },
}


@pytest.mark.slow
def test_they_train_and_an_interrupted_run_ends_as_an_undisturbed_one(
    tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation loss never falls by 10, so the run stops after its second epoch, also when continued."""
    path = str(tiny(HABITS))
    assert run("fit", ["--config", path, "--run.root", "whole"]) == 0
    logged = pd.read_csv("logs/lightning_logs/version_0/metrics.csv")
    assert logged["images_seen"].max() > 1000
    assert any(name.startswith("lr-") for name in logged.columns)
    assert "val/top1" in logged.columns

    def killed(self: RunRecord, trainer: Trainer, module: LightningModule, *args: object) -> None:
        if module.global_step == 20:  # in the second epoch of 16 steps
            raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "on_train_batch_start", killed)
        with pytest.raises(KeyError, match="killed"):
            run("fit", ["--config", path])
    assert run("fit", ["--config", path]) == 0

    runs = [Path(root, "tiny/seed-0") for root in ("whole", "runs")]
    whole, continued = (torch.load(each / "checkpoints/last.ckpt", weights_only=True) for each in runs)
    assert whole["epoch"] == continued["epoch"] == 1
    assert all(torch.equal(x, continued["state_dict"][name]) for name, x in whole["state_dict"].items())
    assert [state for name, state in whole["callbacks"].items() if "CountsImages" in name] == [
        state for name, state in continued["callbacks"].items() if "CountsImages" in name
    ]
    timings = ["images_per_second", "data_wait", "tflops"]
    tables = [pd.read_csv(each / "metrics.csv").drop(columns=timings) for each in runs]
    pd.testing.assert_frame_equal(*tables, check_like=True)

    def killed_in_the_test(self: RunRecord, *args: object) -> None:
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "on_test_batch_end", killed_in_the_test)
        with pytest.raises(KeyError, match="killed"):
            run("fit", ["--config", path, "--run.overwrite", "true"])
    assert run("fit", ["--config", path]) == 0
    assert disagreements(*runs) == []  # neither another epoch nor a metric less


def test_lightnings_parts_are_named_on_the_command_line(tiny: Write) -> None:
    """As docs/commands.md has it."""
    given = "--trainer.callbacks+=LearningRateMonitor --trainer.logger CSVLogger --trainer.logger.save_dir logs"
    short = {"trainer": {"limit_train_batches": 2, "log_every_n_steps": 1}, "run": {"test": False}}
    assert run("fit", ["--config", str(tiny(short)), *given.split()]) == 0
    assert any(name.startswith("lr-") for name in pd.read_csv("logs/lightning_logs/version_0/metrics.csv").columns)


def test_a_callback_whose_rate_the_schedule_would_replace_is_refused(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", ["--config", str(tiny()), "--trainer.callbacks+=LearningRateFinder"]) == 2
    assert "`tune` in a study finds one" in capsys.readouterr().err


class Bright(torch.nn.Module):
    """A transform of a user's own that draws from torch's global generator, as torchvision's do."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image * (0.5 + 0.5 * torch.rand(()))).to(image.dtype)


MINE = {
    "model": {
        "init_args": {
            "extra_metrics": {
                "f1": {
                    "class_path": "torchmetrics.classification.MulticlassF1Score",
                    "init_args": {"num_classes": 2, "average": "macro"},
                }
            }
        }
    },
    "data": {
        "class_path": "ImageFolder",
        "init_args": {
            "root": "photos",
            "image_size": 16,
            "batch_size": 4,
            "num_workers": 0,
            "augment": {
                "rand_augment": None,
                "transforms": [
                    {
                        "class_path": "torchvision.transforms.v2.ColorJitter",
                        "init_args": {"brightness": 0.8, "contrast": 0.8},
                    },
                    {"class_path": f"{__name__}.Bright"},
                ],
            },
        },
    },
    "trainer": {"max_epochs": 2},
}


@pytest.mark.slow
def test_transforms_and_metrics_of_others_are_named_in_yaml_and_exact(
    tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric equals scikit-learn's of predictions.parquet; images are the same whatever drew before them."""
    make_noise(Path("photos"), {"train": 8, "val": 8}, size=(20, 20))
    path = tiny(MINE)
    assert run("fit", ["--config", str(path)]) == 0
    directory = Path("runs/tiny/seed-0")
    metrics = json.loads((directory / "summary.json").read_text())["metrics"]
    predictions = read_predictions(directory / "predictions.parquet")
    expected = f1_score(predictions.labels, predictions.logits.argmax(axis=1), average="macro")
    assert metrics["test/f1"] == pytest.approx(expected, abs=1e-6)

    data = Experiment(path).data
    (first, _), _ = data.training_batch(1, 0, torch.device("cpu"))
    torch.rand(7)
    (again, _), _ = data.training_batch(1, 0, torch.device("cpu"))
    assert torch.equal(first[0], again[0])
    data.augment.transforms = ()
    (plain, _), _ = data.training_batch(1, 0, torch.device("cpu"))
    assert not torch.equal(first[0], plain[0])


def test_a_transform_that_changes_the_shape_is_named(tiny: Write) -> None:
    with pytest.raises(ValueError, match=r"transforms: Grayscale makes \(1, 8, 8\)"):
        transformed(torch.zeros(3, 8, 8, dtype=torch.uint8), [v2.Grayscale()])


def test_a_metric_of_the_tasks_is_not_replaced(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    metric = {"class_path": "torchmetrics.MeanMetric"}
    path = tiny({"model": {"init_args": {"extra_metrics": {"top1": metric}}}})
    assert run("fit", ["--config", str(path)]) == 2
    assert "top1 is a metric of the task" in capsys.readouterr().err
