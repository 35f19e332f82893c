"""Callbacks that a YAML file can name, and what they promise."""

import itertools
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy

import vitlab
from vitlab.commands.dispatch import run
from vitlab.config import Config
from vitlab.data import Digits, PlacedDigits
from vitlab.evaluation.classifiers import predict_weighted
from vitlab.evaluation.cost import flops_of
from vitlab.evaluation.features import extract
from vitlab.evaluation.predictions import calibration_error, read_predictions
from vitlab.evaluation.utilization import Utilization
from vitlab.experiment.experiment import Experiment
from vitlab.models import VisionTransformer
from vitlab.objectives import Objective, Supervised
from vitlab.optim import AdamW, WarmupCosine
from vitlab.runs.directory import RunDirectory
from vitlab.runs.exactness import differences_after_kills
from vitlab.runs.loggers import MetricsFile
from vitlab.runs.record import RunRecord, erase


def knn_monitor(every_n_epochs: int = 1, **arguments: object) -> Config:
    init_args = {"every_n_epochs": every_n_epochs, **arguments}
    return {"class_path": "vitlab.runs.knn_monitor.KnnMonitor", "init_args": init_args}


def test_knn_is_monitored_every_n_epochs_and_after_the_last(tiny: Callable[..., Path]) -> None:
    path = tiny({"trainer": {"max_epochs": 3, "limit_train_batches": 2, "callbacks": [knn_monitor(2, most=200)]}})
    assert run("fit", ["--config", str(path)]) == 0
    logged = pd.read_csv("runs/tiny/seed-0/metrics.csv").dropna(subset="val/knn")
    assert logged.epoch.tolist() == [1, 2]
    assert logged["val/knn"].between(0.3, 1).all()  # digits have neighbors of their own class in any features


@pytest.mark.slow(edge=True)
@pytest.mark.filterwarnings("ignore")  # those of libraries, as `fit` leaves them out
def test_the_monitor_compares_with_the_untrained_encoder_and_with_pixels(tiny: Callable[..., Path]) -> None:
    """The expectation is the k-NN among all training images, of an encoder built with the same seed and of pixels."""
    path = tiny({"trainer": {"callbacks": [knn_monitor(most=None)]}})
    trained, untrained = Experiment(path), Experiment(path)
    measured, data = trained.fit(), untrained.data
    embeddings = {"": trained.model.embed, "_untrained": untrained.model.embed, "_pixels": lambda x: x.flatten(1)}
    for name, embed in embeddings.items():
        bank, queries = (extract(trained.model, data.batches(split, "cpu"), embed=embed) for split in ("train", "val"))
        assert len(bank[1]) == len(data.labels("train"))
        right = predict_weighted(queries[0], *bank, 10) == queries[1]
        assert measured[f"val/knn{name}"] == pytest.approx(float(right.float().mean()))


def test_a_run_logs_the_temperature_of_its_validation_images(tiny: Callable[..., Path]) -> None:
    """The oracle is scipy's minimum of torch's cross-entropy over T."""
    assert run("fit", ["--config", str(tiny())]) == 0
    directory = RunDirectory(Path("runs/tiny/seed-0"))
    experiment, test, logged = Experiment.load(directory.path), directory.predictions, directory.metrics
    with torch.no_grad():
        val = torch.cat([experiment.model.eval()(x) for (x,), _ in experiment.data.batches("val", "cpu")]).double()
    truth = torch.from_numpy(experiment.data.labels("val"))
    found = minimize(lambda t: float(F.cross_entropy(val / t[0], truth)), 1.0, method="Nelder-Mead").x[0]
    assert logged["test/temperature"] == pytest.approx(found, rel=1e-3)
    expected = calibration_error(test.logits / found, test.labels)
    assert logged["test/ece_calibrated"] == pytest.approx(expected, abs=2e-3)


@pytest.mark.slow
def test_a_continued_run_keeps_what_the_monitor_measured_before_the_first_step(
    tiny: Callable[..., Path], tmp_path: Path
) -> None:
    path = tiny({"trainer": {"limit_train_batches": 6, "callbacks": [knn_monitor()]}})
    arguments = [str(path), "--run.checkpoint.every_n_steps", "1"]
    assert differences_after_kills(arguments, [3], tmp_path / "runs") == []
    logged = pd.read_csv(tmp_path / "runs/killed/run/seed-0/metrics.csv").dropna(subset="val/knn")
    assert logged["val/knn_untrained"].between(0.3, 1).all()


@pytest.mark.slow(edge=True)
def test_training_that_improves_no_features_is_said_at_its_end(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny({"trainer": {"callbacks": [knn_monitor()]}})
    for rate, improves in (("1.0e-3", True), ("1.0e-12", False)):
        options = ["--config", str(path), "--model.optimizer.lr", rate, "--run.overwrite", "true"]
        assert run("fit", options) == 0
        assert ("The training improved no features" in capsys.readouterr().err) is not improves


def test_the_monitor_changes_no_weight(tiny: Callable[..., Path]) -> None:
    for name, callbacks in (("without", []), ("with", [knn_monitor()])):
        path = tiny({"trainer": {"limit_train_batches": 3, "callbacks": callbacks}}, name)
        assert run("fit", ["--config", str(path)]) == 0
    first, second = (
        torch.load(f"runs/{name}/seed-0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("without", "with")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_features_that_have_become_one_are_named_with_remedies(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny({"trainer": {"limit_train_batches": 1, "callbacks": [knn_monitor()]}})
    assert run("fit", ["--config", str(path)]) == 0
    assert "Collapse" not in capsys.readouterr().err
    alike = torch.ones(20, 8), torch.arange(20) % 10
    monkeypatch.setattr("vitlab.runs.knn_monitor.extract", lambda *args, **kwargs: alike)
    monkeypatch.setattr("vitlab.objectives.Supervised.remedies", "What has helped others: larger batches.")
    assert run("fit", ["--config", str(path), "--run.name", "alike"]) == 0
    assert "Collapse: val/rank is 1.00, all images look alike.\nWhat has helped others" in capsys.readouterr().err


def test_an_own_model_checkpoint_lies_with_the_others_and_goes_with_the_run(tiny: Callable[..., Path]) -> None:
    """Also one that would be called `last.ckpt` as ours."""
    own = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"filename": "epoch-{epoch}", "save_last": True, "auto_insert_metric_name": False},
    }
    path = tiny({"trainer": {"limit_train_batches": 2, "callbacks": [own]}})
    assert run("fit", ["--config", str(path)]) == 0
    directory = Path("runs/tiny/seed-0")
    files = {str(file.relative_to(directory)) for file in directory.rglob("*.ckpt")}
    assert files == {"checkpoints/last.ckpt", "checkpoints/own/epoch-0.ckpt", "checkpoints/own/last.ckpt"}
    erase(directory)
    assert not list(directory.rglob("*.ckpt"))


def test_data_without_classes_are_refused_before_training(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny({"trainer": {"callbacks": [knn_monitor()]}})
    labels = Digits.labels
    monkeypatch.setattr(Digits, "labels", lambda *args: np.eye(10, dtype=np.float32)[labels(*args)])
    assert run("fit", ["--config", str(path)]) == 2
    assert "one class per image" in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize("output", [None, torch.zeros(()), {"label": torch.zeros(4, 3)}])
def test_of_an_objective_without_classes_no_predictions_are_kept(output: object, tmp_path: Path) -> None:
    """Whatever its own test step returns: several labels an image made a traceback after the training."""

    class ManyLabels(Objective):
        monitor = None
        loss = Supervised.loss
        encoder = property(lambda self: self.backbone)

    backbone = VisionTransformer(8, 4, 1, num_classes=3, embed_dim=8, depth=1, num_heads=2)
    objective, record = ManyLabels(backbone, AdamW(lr=1e-3), WarmupCosine(1)), RunRecord(tmp_path, {})
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    record.on_test_batch_end(trainer, objective, output)
    record.on_test_end(trainer, objective)
    assert not list(tmp_path.iterdir())


def test_the_whole_command_is_timed(tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vitlab, "BEGAN", time.perf_counter() - 1_000)  # as if starting had taken so long
    assert run("fit", ["--config", str(tiny({"trainer": {"limit_train_batches": 2}}))]) == 0
    summary = json.loads(Path("runs/tiny/seed-0/summary.json").read_text())
    assert 1_000 + summary["seconds"] < summary["wall_seconds"] < 1_200


def test_the_best_epoch_stands_beside_the_result_of_the_last(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = {"max_epochs": 4, "limit_train_batches": 3}
    assert run("fit", ["--config", str(tiny({"trainer": trainer})), "--model.optimizer.lr", "0.01"]) == 0
    summary = json.loads(Path("runs/tiny/seed-0/summary.json").read_text())
    values = pd.read_csv("runs/tiny/seed-0/metrics.csv")["val/top1"].dropna().tolist()
    epoch = values.index(max(values)) + 1
    assert summary["best_epoch"] == {"epoch": epoch, "val/top1": pytest.approx(max(values))}
    assert summary["metrics"]["val/top1"] == pytest.approx(values[-1], abs=1e-6)
    assert f"best of 4 epochs: val/top1 {max(values):.4f} in epoch {epoch}\n" in capsys.readouterr().err


def test_a_continued_run_has_taken_the_time_of_all_of_its_starts(tmp_path: Path) -> None:
    first, second = RunRecord(tmp_path, {}), RunRecord(tmp_path, {})
    first.began -= 70
    second.load_state_dict(first.state_dict())
    second.began -= 30
    assert second.wall_seconds == pytest.approx(100, abs=5)


def test_a_long_epoch_is_heard_of_before_it_ends(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count(0, 60)  # each look at the clock is a minute later, so a line is due
    monkeypatch.setattr("vitlab.runs.trainer.time.perf_counter", lambda: float(next(seconds)))
    run("fit", ["--config", str(tiny())])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch 1/1")]
    assert len(lines) > 2
    assert lines[-1].endswith("0:00:00 left")


def test_a_terminal_has_one_line_with_the_loss_and_at_the_end_that_of_a_log(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run("fit", ["--config", str(tiny())])
    *shown, last = [line for line in re.split(r"\r\x1b\[K", capsys.readouterr().err) if line.startswith("epoch 1/1")]
    assert shown
    assert all(re.search(r"images/s, \d+% waiting for data, loss \d+\.\d{3}, \d:\d\d:\d\d left$", x) for x in shown)
    assert "\n" in last  # it stays
    assert "loss" not in last.partition("\n")[0].replace("train/loss", "")


def test_progress_counts_the_epochs_of_a_run_in_steps(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """16 steps an epoch, as Digits' 1,078 images fill: 20 steps end in the second of two epochs."""
    run("fit", ["--config", str(tiny({"trainer": {"max_epochs": None, "max_steps": 20}}))])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert line.startswith("epoch 2/2: ")
    assert line.endswith("0:00:00 left")


def test_strata_of_the_test_images_come_with_the_predictions(tiny: Callable[..., Path]) -> None:
    placed = {"class_path": "vitlab.data.PlacedDigits", "init_args": {"image_size": 16, "digit_sizes": [8, 16]}}
    short = {"max_epochs": 1, "limit_train_batches": 1}
    assert run("fit", ["--config", str(tiny({"data": placed, "trainer": short}))]) == 0
    strata = read_predictions("runs/tiny/seed-0/predictions.parquet").strata["size in pixels"]
    assert np.array_equal(strata, PlacedDigits(image_size=16, digit_sizes=(8, 16)).strata("test")["size in pixels"])
    table = pd.read_csv("runs/tiny/seed-0/per_stratum.csv")
    assert table.stratum.tolist() == [8, 16]
    assert table.images.tolist() == [(strata == "8").sum(), (strata == "16").sum()]
    metrics = json.loads(Path("runs/tiny/seed-0/summary.json").read_text())["metrics"]
    assert (table.top1 * table.images).sum() / 599 == pytest.approx(metrics["test/top1"], abs=1e-6)
    assert [metrics[f"test/top1_size_in_pixels_{size}"] for size in (8, 16)] == table.top1.tolist()


def test_rows_that_a_full_disk_refused_are_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = MetricsFile(tmp_path / "metrics.csv")
    logger.log_metrics({"a": 1.0, "epoch": 0}, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        logger.log_metrics({"a": 2.0, "epoch": 1}, 2)
        logger.log_metrics({"a": 3.0, "b": 1.0, "epoch": 2}, 3)
    logger.log_metrics({"a": 4.0, "epoch": 3}, 4)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["a"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert table["b"].tolist()[2] == 1.0


# The FLOPs of a run's first step, and the rates that follow from them


def test_a_run_counts_its_first_step_and_logs_the_rate(finished: Path) -> None:
    state = torch.load(finished / "checkpoints/last.ckpt", weights_only=True)["callbacks"]["Utilisation"]
    model = VisionTransformer(img_size=8, in_chans=1, num_classes=10, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    images, labels = torch.randn(64, 1, 8, 8), torch.arange(64) % 10
    assert state["flops"] == flops_of(lambda: cross_entropy(model(images), labels).backward())
    table = pd.read_csv(finished / "metrics.csv").dropna(subset="tflops")
    expected = table.images_per_second / 64 * state["flops"] / 1e12
    assert table.tflops.tolist() == pytest.approx(expected.tolist(), rel=0.05)  # the last batch is as full
    assert "mfu" not in table  # no GPU


def test_utilization_is_a_share_of_the_peak() -> None:
    utilization = Utilization()
    assert utilization.rates(3.0) == {}
    utilization.flops = int(2e12)
    assert utilization.rates(3.0) == {"tflops": 6.0}
    utilization.peak = 24e12
    assert utilization.rates(3.0) == {"tflops": 6.0, "mfu": 0.25}
