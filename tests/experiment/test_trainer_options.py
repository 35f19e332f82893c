"""Every option of Lightning's Trainer that `fit --help` lists works in a run, or is answered in one message."""

import json
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.experiment.experiment import Experiment

Write = Callable[..., Path]
RUN = Path("runs/tiny/seed-0")
SHORT = {"trainer": {"limit_train_batches": 2}, "run": {"test": False}}

# A value of each option that differs from its default, and what the refusal says of one that cannot work here.
OPTIONS: dict[str, tuple[str, str]] = {
    "accelerator": ("gpu", "" if torch.cuda.is_available() else "No supported gpu backend found"),
    "strategy": ("auto", ""),
    "devices": ("1", ""),
    "num_nodes": ("1", ""),
    "precision": ("bf16-mixed", ""),
    "logger": ("false", ""),
    "callbacks": ("LearningRateMonitor", ""),
    "fast_dev_run": ("true", ""),
    "max_epochs": ("2", ""),
    "min_epochs": ("1", ""),
    "max_steps": ("3", ""),
    "min_steps": ("1", ""),
    "max_time": ("00:01:00:00", ""),
    "limit_train_batches": ("1", ""),
    "limit_val_batches": ("0", ""),
    "limit_test_batches": ("1", ""),
    "limit_predict_batches": ("1", ""),
    "overfit_batches": ("1", ""),
    "val_check_interval": ("1", ""),
    "check_val_every_n_epoch": ("2", ""),
    "num_sanity_val_steps": ("1", ""),
    "log_every_n_steps": ("1", ""),
    "enable_checkpointing": ("false", ""),
    "enable_progress_bar": ("false", ""),
    "enable_model_summary": ("true", ""),
    "accumulate_grad_batches": ("2", ""),
    "gradient_clip_val": ("0.5", ""),
    "gradient_clip_algorithm": ("value", ""),
    "deterministic": ("true", ""),
    "benchmark": ("true", ""),
    "inference_mode": ("false", ""),
    "use_distributed_sampler": ("true", ""),
    "profiler": ("simple", ""),
    "detect_anomaly": ("true", ""),
    "barebones": ("true", "it is disabled in barebones mode"),
    "plugins": ("null", ""),
    "sync_batchnorm": ("true", ""),
    "reload_dataloaders_every_n_epochs": ("1", ""),
    "default_root_dir": ("elsewhere", ""),
    "enable_autolog_hparams": ("false", ""),
    "model_registry": ("null", ""),
}


def test_every_option_of_the_help_is_tried_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("fit", ["--help"]) == 0
    listed = set(re.findall(r"--trainer\.(\w+)", capsys.readouterr().out))
    assert listed == set(OPTIONS)


@pytest.mark.parametrize("option", [option for option, (_, refusal) in OPTIONS.items() if refusal])
def test_an_option_that_cannot_work_is_answered(option: str, tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    value, refusal = OPTIONS[option]
    assert run("fit", ["--config", str(tiny(SHORT)), f"--trainer.{option}", value]) == 2
    message = capsys.readouterr().err
    assert refusal in message
    assert len(message.splitlines()) <= 5
    assert not RUN.exists()


# Options that change what others do, apart from these; all the others together.
APART = [
    ["fast_dev_run"],
    ["limit_val_batches"],
    ["logger", "max_steps", "min_steps", "overfit_batches", "benchmark"],
    ["val_check_interval", "limit_train_batches", "precision"],
]
WORKING = {option for option, (_, refusal) in OPTIONS.items() if not refusal}


@pytest.mark.parametrize("options", [sorted(WORKING.difference(*APART)), *APART], ids=["the others", *map(str, APART)])
def test_options_work_together(options: list[str], tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    given = [word for option in options for word in (f"--trainer.{option}", OPTIONS[option][0])]
    assert run("fit", ["--config", str(tiny(SHORT)), *given]) == 0, capsys.readouterr().err
    if options == ["fast_dev_run"]:  # Lightning's own meaning: nothing is kept
        return
    assert (RUN / "summary.json").is_file()
    assert "images_per_second" in pd.read_csv(RUN / "metrics.csv")
    if "profiler" in options:  # Lightning writes both into its log, which a run otherwise silences
        printed = capsys.readouterr().err
        assert "Trainable params" in printed
        assert "run_training_epoch" in printed


@pytest.mark.parametrize("devices", ["0", "-1", "3x", "[a]"])
def test_devices_that_lightning_refuses_are_one_message(
    devices: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fit", ["--config", str(tiny(SHORT)), "--trainer.accelerator=cpu", f"--trainer.devices={devices}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not RUN.exists()


@pytest.mark.filterwarnings("ignore:[^!]*Unable to serialize instance cpu")  # of Lightning's averaging callback
@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            {"class_path": "EarlyStopping", "init_args": {"monitor": "val/acc"}},
            "there is no val/acc, but train/loss, val/balanced_accuracy, val/ece, val/loss, val/macro_f1, val/top1,",
        ),
        ({"class_path": "StochasticWeightAveraging", "init_args": {"swa_lrs": 0.01}}, "set model.init_args.ema"),
        ({"class_path": "EMAWeightAveraging"}, "set model.init_args.ema"),
        (
            {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 4}}},
            "set trainer.accumulate_grad_batches",
        ),
    ],
)
def test_a_callback_that_cannot_work_is_refused(
    callback: dict, message: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny({"trainer": {"callbacks": [callback]}})
    assert run("fit", ["--config", str(path)]) == 2
    assert message in capsys.readouterr().err
    assert not RUN.exists()


@pytest.mark.parametrize(
    ("trainer", "package"),
    [
        ({"callbacks": [{"class_path": "RichProgressBar"}]}, "rich"),
        ({"logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "logs"}}}, "tensorboard"),
    ],
)
def test_a_package_that_is_missing_is_named(
    trainer: Config, package: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec(package):
        pytest.skip("it is installed")
    assert run("fit", ["--config", str(tiny(merge(SHORT, {"trainer": trainer})))]) == 2
    message = capsys.readouterr().err
    assert package in message
    assert "pip install" in message
    assert len(message.splitlines()) <= 3


def test_stopping_may_wait_for_what_a_callback_logs(tiny: Write) -> None:
    monitor = {"class_path": "vitlab.runs.knn_monitor.KnnMonitor", "init_args": {"every_n_epochs": 1}}
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/knn", "mode": "max"}}
    path = tiny(merge(SHORT, {"trainer": {"callbacks": [monitor, stopping]}}))
    assert run("fit", ["--config", str(path)]) == 0


def test_a_checkpoint_callback_of_the_users_own_keeps_beside_ours(tiny: Write) -> None:
    """Of a metric that is ours as well."""
    own = {"class_path": "ModelCheckpoint", "init_args": {"save_last": True, "monitor": "val/top1", "mode": "max"}}
    path = tiny(merge(SHORT, {"trainer": {"callbacks": [own]}}))
    assert run("fit", ["--config", str(path)]) == 0
    assert {file.name for file in (RUN / "checkpoints").glob("*.ckpt")} == {"last.ckpt"}
    assert len(list((RUN / "checkpoints" / "own").glob("*.ckpt"))) == 2


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("max_epochs", "0", "no training step was taken"),
        ("max_time", "00:00:00:01", "max_time ended the training"),
        ("limit_test_batches", "2", "tested on 2 of 10 batches of images"),
    ],
)
def test_what_is_no_result_says_so(
    option: str, value: str, reason: str, tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny({"trainer": {"max_epochs": 100_000 if option == "max_time" else 1}})
    assert run("fit", ["--config", str(path), f"--trainer.{option}", value]) == 0
    assert f"Not a result: {reason}" in capsys.readouterr().err
    (said,) = json.loads((RUN / "summary.json").read_text())["partial"]
    assert reason in said


def test_a_run_that_ends_within_an_epoch_is_not_asked_for_its_validation(
    tiny: Write, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    path = tiny({"trainer": {"max_epochs": None, "max_steps": 3}})
    assert run("fit", ["--config", str(path)]) == 0
    assert not [str(each.message) for each in recwarn]
    assert "test/top1" in capsys.readouterr().err


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_takes_nothing_from_it(
    tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float32, as on any CPU, and no memory locked for copies to a GPU."""
    path = tiny({"data": {"init_args": {"hold_on_device": False}}})
    experiment = Experiment.from_arguments(["--config", str(path), "--trainer.accelerator", "cpu"])
    assert experiment.objective  # whose random state is read from every device that there is
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert experiment.trainer.precision == "32-true"
    experiment.data.trainer = experiment.trainer
    experiment.data.setup("fit")
    assert not experiment.data.train_dataloader().pin_memory
