"""The command line, run as a user runs it but in this process. Each silent trap of LightningCLI has its test here."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import vitlab
from tests.conftest import EXPERIMENTS
from vitlab.__main__ import COMMANDS, main
from vitlab.commands.dispatch import run
from vitlab.commands.options import StudyParser
from vitlab.config import Config, flatten, load_yaml
from vitlab.experiment.chain import branch_off
from vitlab.experiment.experiment import Experiment
from vitlab.models import Backbone, VisionTransformer
from vitlab.objectives import LabeledObjective, Supervised

Write = Callable[..., Path]
RUN = Path("runs/tiny/seed-0")


def fit(*arguments: object) -> int:
    return run("fit", [str(argument) for argument in arguments])


def printed(*arguments: object, capsys: pytest.CaptureFixture[str]) -> Config:
    """Return what would run."""
    assert fit(*arguments, "--print_config") == 0
    config: Config = yaml.safe_load(capsys.readouterr().out)
    return config


def saved(directory: Path = RUN) -> Config:
    return flatten(load_yaml(directory / "config.yaml"))


def error_of(capsys: pytest.CaptureFixture[str], status: int) -> str:
    """Return the one message of a refused command; at most five lines, exit status 2, no run begun."""
    told, error, message = capsys.readouterr().err.partition("error: ")
    assert status == 2
    assert all(" replaces " in line for line in told.splitlines())  # which class another takes the place of
    message = error + message
    assert message.startswith("error: ")
    assert 1 <= len(message.splitlines()) <= 5
    assert not Path("runs").exists()
    return message


class Half(Backbone):
    """An architecture that is not written yet."""


class Plain(torch.nn.Module):
    """A network that knows nothing of vitlab."""


class Colored(VisionTransformer):
    """An architecture for three channels alone."""

    def __init__(self, img_size: int = 8, num_classes: int = 10) -> None:
        super().__init__(img_size, 4, num_classes=num_classes, embed_dim=8, depth=1, num_heads=2)


class Untyped(Supervised):
    def __init__(self, backbone, optimizer, schedule):  # type: ignore[no-untyped-def]
        super().__init__(backbone, optimizer, schedule)


class Taskless(LabeledObjective):
    def loss(self, views: Any, labels: Any) -> Any:
        return labels.sum()


# ---- a run


def test_a_run_leaves_what_the_readme_lists(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--config", tiny()) == 0
    printed = capsys.readouterr()
    assert len((printed.out + printed.err).splitlines()) <= 20
    assert "Not a result" not in printed.err
    names = {str(path.relative_to(RUN)) for path in RUN.rglob("*") if path.is_file()}
    assert names == {
        "config.yaml",
        "environment.json",
        "data.json",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "predictions.parquet",
        "per_class.csv",
        "confusion.csv",
        "summary.json",
    }
    metrics = pd.read_csv(RUN / "metrics.csv")
    assert {"step", "epoch", "lr", "train/loss", "val/top1", "val/loss", "test/top1"} <= set(metrics.columns)
    predictions = pd.read_parquet(RUN / "predictions.parquet")
    accuracy = (predictions.logits.map(lambda row: row.argmax()) == predictions.label).mean()
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["metrics"]["test/top1"] == pytest.approx(accuracy)
    table = pd.read_csv(RUN / "per_class.csv")
    assert (table.top1 * table.images).sum() / table.images.sum() == pytest.approx(accuracy)
    assert list(json.loads((RUN / "data.json").read_text())) == ["classes", "splits", "test_is_validation"]
    assert (summary["images_seen"], summary["partial"]) == (summary["steps"] * 64, [])
    backbone = {k.rpartition(".")[2]: v for k, v in saved().items() if k.startswith("model.init_args.backbone")}
    assert (backbone["num_classes"], backbone["in_chans"], backbone["img_size"]) == (10, 1, 8)  # of the data


def test_the_same_command_on_a_finished_run_changes_nothing(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.stat().st_mtime_ns for file in RUN.rglob("*")}
    assert printed("--config", "tiny.yaml", capsys=capsys) == load_yaml(RUN / "config.yaml")
    assert fit("--config", "tiny.yaml") == 0
    assert {file: file.stat().st_mtime_ns for file in RUN.rglob("*")} == before


def test_testing_without_a_checkpoint_is_refused(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, run("test", ["--config", str(tiny())]))
    assert "No checkpoint runs/tiny/seed-0/checkpoints/last.ckpt" in message


# ---- silent traps


@pytest.mark.slow
def test_the_command_line_beats_the_checkpoint(tiny: Write) -> None:
    # LightningCLI since 2.5.5 merges the checkpoint's hyper-parameters over the command line.
    path = tiny()
    fit("--config", path)
    checkpoint = RUN / "checkpoints/last.ckpt"
    more = ("--model.optimizer.lr", "0.5", "--trainer.max_epochs", "2", "--run.name", "more", "--ckpt_path", checkpoint)
    assert fit("--config", path, *more) == 0
    assert saved(Path("runs/more/seed-0"))["model.init_args.optimizer.init_args.lr"] == 0.5


def test_a_checkpoint_of_another_backbone_is_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("test", ["--config", "tiny.yaml", "--model.backbone.depth", "3"]) == 2
    assert "depth: 2 in the checkpoint, 3 requested" in capsys.readouterr().err


def test_another_optimizer_inherits_nothing(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    # jsonargparse keeps AdamW's weight_decay 0.3 for SGD, which has an argument of that name.
    sgd = {"class_path": "vitlab.optim.SGD", "init_args": {"lr": 0.1}}
    Path("sgd.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"optimizer": sgd}}}))
    on_the_command_line = ["--model.optimizer", "vitlab.optim.SGD", "--model.optimizer.lr", "0.1"]
    for arguments in (on_the_command_line, ["--config", "sgd.yaml"]):
        optimizer = printed("--config", tiny(), *arguments, capsys=capsys)["model"]["init_args"]["optimizer"]
        assert optimizer["class_path"] == "vitlab.optim.SGD"
        assert optimizer["init_args"]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.max_epoch", "3"], "no option trainer.max_epoch. Did you mean trainer.max_epochs?"),
        (["--model.optimizer.lrr", "3"], "model.optimizer: no option lrr. Did you mean lr?"),
        (["--modle.label_smoothing", "3"], "Did you mean model"),
        (["--model.optimizer", "AdamWW"], "model.optimizer: no class AdamWW. Did you mean AdamW?"),
        (["--model.optimizer.lr", "fast"], "model.optimizer.lr: could not convert string to float: 'fast'"),
        (["--trainer.max_epochs", "ten"], "trainer.max_epochs: expected int. Given: ten"),
        (["--trainer.precision", "fp16"], "or '64', '32', '16', 'bf16'. Given: fp16"),
        (["--model.optimizer.betas", "0.9"], "model.optimizer.betas: expected tuple. Got value: 0.9"),
        (["--seed_everything", "-1"], "seed_everything: -1 does not conform to restriction v>=0 and v<=4294967295"),
        (
            ["--init_seed", "4294967296"],
            "conform to restriction v>=0 and v<=4294967295 Given: 4294967296",
        ),
        (
            ["--trainer.accumulate_grad_batches", "0"],
            "accumulate_grad_batches: 0 does not conform to restriction v>0",
        ),
        (["--model.optimizer.lr", "-1"], "model.optimizer.lr: -1 does not conform to restriction v>0"),
        (["--model.backbone.num_classes", "7"], "num_classes is 7, but vitlab.data.Digits has num_classes 10"),
        (["--model.backbone.patch_size", "3"], "does not divide into patches of 3 px"),
        (["--model.init_from", "nowhere.ckpt"], "no weights at nowhere.ckpt"),
        (["--ckpt_path", "nowhere.ckpt"], "No checkpoint nowhere.ckpt"),
        (["--lr", "8"], "no option lr. Did you mean model.optimizer.lr?"),
        (["--num_workers", "8"], "Did you mean data.num_workers?"),  # not in the file
        (["--model.lr", "8"], "model: no option lr. Did you mean model.optimizer.lr?"),
        (["--epochs", "8"], "Did you mean trainer.max_epochs?"),
        (["--seed", "8"], "Did you mean seed_everything?"),  # data.seed is taken from it
        (["--trainer.auto_lr_find", "true"], "no option trainer.auto_lr_find.\n"),  # nothing is like it
        (["--model.backbone", "vit_tny_patch4_32"], "no class vit_tny_patch4_32. Did you mean vit_tiny_patch4_32?"),
        (["--model.optimizer", "SimMIM"], "model.optimizer: no class SimMIM. There are "),
        (["--model.optimizer", "SGD"], "model.optimizer needs lr: give --model.optimizer.lr"),
        (["--trainer.callbacks+=EarlyStoping"], "no class EarlyStoping. Did you mean EarlyStopping?"),
        (["--model.backbone", f"{__name__}.Half"], "Half lacks encode; "),
        (["--model.backbone", f"{__name__}.Plain"], "Plain does not correspond to a subclass of ImageModel"),
        (["--model.backbone", f"{__name__}.Colored"], "Colored needs the arguments num_classes, in_chans, img_size."),
        (["--model.teacher.model", "null"], "model: no option teacher.model.\n"),
        (["--model", f"{__name__}.Untyped"], "Untyped.__init__ gives backbone no type"),
        (["--model", f"{__name__}.Taskless"], "Taskless has no task; set one"),
        (["--model.init_from", "above"], "init_from: above has runs in it; give one of above/seed-0."),
    ],
)
def test_a_mistake_is_one_message_with_the_remedy(
    tiny: Write, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    Path("above/seed-0").mkdir(parents=True)
    assert message in error_of(capsys, fit("--config", tiny(), *arguments))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainr": {"max_epochs": 3}}, "no option trainr.max_epochs. Did you mean trainer.max_epochs?"),
        (
            {"model": {"init_args": {"backbone": {"init_args": {"dept": 3}}}}},
            "error: model.backbone: no option dept. Did you mean depth?\n",
        ),
        (
            {"data": {"init_args": {"augment": {"shift": -1}}}},
            "data.augment.shift: -1 does not conform to restriction v>=0\n",
        ),
        ({"data": {"class_path": "vitlab.data.Digit"}}, "Did you mean Digits?"),
    ],
)
def test_a_mistake_in_the_file_is_one_message_with_the_remedy(
    tiny: Write, capsys: pytest.CaptureFixture[str], changes: Config, message: str
) -> None:
    assert message in error_of(capsys, fit("--config", tiny(changes)))


def test_a_variant_alone_is_refused_and_takes_its_base_before_it(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("variant.yaml").write_text("model: { init_args: { label_smoothing: 0.2 } }")
    message = error_of(capsys, fit("--config", "variant.yaml"))
    assert "variant.yaml has no model.class_path: it is a variant or an overlay" in message
    assert "before it: --config BASE.yaml" in message
    assert fit("--config", tiny(), "--config", "variant.yaml", "--trainer.fast_dev_run", "true") == 0


@pytest.mark.parametrize("option", ["--model=Supervisd", "--model.backbone=VisionTransformr"])
def test_what_a_misspelt_class_would_drop_is_not_listed(
    tiny: Write, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert fit("--config", tiny(), option) == 2
    assert "replaces" not in capsys.readouterr().err


def test_a_file_that_names_no_class_is_told_so(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    Path("base.yaml").write_text("data: {batch_size: 3}")
    assert "data: no class is named; give a ImageDataModule." in error_of(capsys, fit("--config", "base.yaml"))


def test_a_file_needs_no_option_and_a_named_size_no_path(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """What the hints propose is accepted."""
    path = tiny()
    assert fit(path, "--data.image_size", "32", "--model.backbone", "vit_tiny_patch4_32", "--print_config") == 0
    backbone = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["backbone"]
    assert backbone["class_path"] == "vitlab.models.vit_tiny_patch4_32"


@pytest.mark.slow
def test_another_data_set_keeps_the_recipe_and_says_what_it_drops(
    tiny: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user lost mixup, erasing and the evaluation batch in this way, without a word."""
    experiment = EXPERIMENTS / "vit_cifar10.yaml"
    assert fit(EXPERIMENTS / "vit_cifar100.yaml", "--print_config") == 0
    expected = yaml.safe_load(capsys.readouterr().out)
    Path("other.yaml").write_text("data: {class_path: CIFAR100}")
    for switch in (["--data", "CIFAR100"], ["--data.class_path=vitlab.data.CIFAR100"], ["--config", "other.yaml"]):
        assert fit(experiment, *switch, "--run.name", "vit_cifar100", "--print_config") == 0
        printed = capsys.readouterr()
        assert "CIFAR100 replaces CIFAR10; kept batch_size, eval_batch_size, augment, mixup; dropped" in printed.err
        assert yaml.safe_load(printed.out) == expected


@pytest.mark.slow
def test_a_failed_start_leaves_nothing_and_does_not_block_the_corrected_command(
    tiny: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny()
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        error_of(capsys, fit("--config", path, "--model.init_from", "nowhere.ckpt"))
    assert not RUN.exists()
    assert fit("--config", path) == 0


def test_the_best_epoch_is_one_that_was_validated(tiny: Write) -> None:
    """An epoch without validation is not asked for its accuracy, of which Lightning would warn."""
    trainer = {"max_epochs": 5, "check_val_every_n_epoch": 2, "limit_train_batches": 1}
    assert fit("--config", tiny({"trainer": trainer}), "--run.checkpoint.best", "true") == 0
    validated = pd.read_csv(RUN / "metrics.csv").dropna(subset="val/top1")
    assert validated["epoch"].tolist() == [1, 3, 4]  # the last one, too
    first_best = validated["epoch"].iloc[validated["val/top1"].argmax()]
    assert torch.load(RUN / "checkpoints/best.ckpt", weights_only=True)["epoch"] == first_best
    assert torch.load(RUN / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 4


@pytest.mark.parametrize(("steps", "validated"), [(6, [2]), (5, [2]), (1, [0])])
def test_a_run_of_some_steps_ends_with_a_score(tiny: Write, steps: int, validated: list[int]) -> None:
    """Also where an epoch, of two steps of two batches, is cut short."""
    trainer = {"max_epochs": -1, "max_steps": steps, "check_val_every_n_epoch": 7}
    trainer |= {"limit_train_batches": 4, "accumulate_grad_batches": 2}
    assert fit("--config", tiny({"trainer": trainer})) == 0
    rows = pd.read_csv(RUN / "metrics.csv").dropna(subset="val/top1")
    assert rows["epoch"].tolist() == validated
    summary = json.loads((RUN / "summary.json").read_text())
    assert summary["steps"] == steps
    assert summary["metrics"]["val/top1"] == pytest.approx(rows["val/top1"].item())


@pytest.mark.slow
def test_a_run_stopped_by_steps_counts_the_same_when_it_is_tested_again(tiny: Write) -> None:
    path = tiny({"trainer": {"max_epochs": -1, "max_steps": 6, "limit_train_batches": 4}})
    assert fit("--config", path) == 0
    first = json.loads((RUN / "summary.json").read_text())
    assert first["epochs"] == 2
    (RUN / "summary.json").unlink()  # as if it had been killed while testing
    assert fit("--config", path) == 0
    assert json.loads((RUN / "summary.json").read_text())["epochs"] == 2
    tested = pd.read_csv(RUN / "metrics.csv").dropna(subset="test/top1")
    assert tested["epoch"].tolist() == [2]


@pytest.mark.slow
def test_a_run_that_extends_one_cut_within_an_epoch_ends_with_a_score(tiny: Write) -> None:
    """The epochs of the two have 4 and 2, then 4 and 2 steps, so whole epochs do not give the steps that are left."""
    path = tiny({"trainer": {"max_epochs": -1, "max_steps": 6, "limit_train_batches": 4}})
    assert fit("--config", path) == 0
    state = f"--ckpt_path={RUN}/checkpoints/last.ckpt"
    assert fit("--config", path, "--run.name=longer", state, "--trainer.max_steps=12") == 0
    rows = pd.read_csv("runs/longer/seed-0/metrics.csv").dropna(subset="val/top1")
    assert rows["step"].iloc[-1] == 11  # counted from 0


@pytest.mark.slow
def test_a_run_that_starts_from_a_state_and_trains_nothing_counts_the_images_before_it(tiny: Write) -> None:
    path = tiny({"trainer": {"max_epochs": 1}})
    assert fit("--config", path) == 0
    state = f"--ckpt_path={RUN}/checkpoints/last.ckpt"
    assert fit("--config", path, "--run.name=again", state, "--trainer.limit_train_batches=0") == 0
    first, again = (json.loads(Path(f"runs/{name}/seed-0/summary.json").read_text()) for name in ("tiny", "again"))
    assert again["images_seen"] == first["images_seen"] > 0


def test_images_are_counted_where_a_limit_cuts_the_last_step_short(tiny: Write) -> None:
    """Three batches in two steps: the second one has one batch."""
    trainer = {"max_epochs": 2, "limit_train_batches": 3, "accumulate_grad_batches": 2}
    path = tiny({"trainer": trainer})
    assert fit("--config", path) == 0
    batch = yaml.safe_load((RUN / "config.yaml").read_text())["data"]["init_args"]["batch_size"]
    summary = json.loads((RUN / "summary.json").read_text())
    assert (summary["steps"], summary["images_seen"]) == (4, 6 * batch)


@pytest.mark.slow
def test_a_run_that_pauses_has_a_score(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny({"trainer": {"max_epochs": 4, "check_val_every_n_epoch": 3, "limit_train_batches": 1}})

    def validated() -> list[int]:
        return pd.read_csv(RUN / "metrics.csv").dropna(subset="val/top1")["epoch"].tolist()

    assert fit("--config", path, "--run.checkpoint.pause_after", 2) == 76
    assert "Paused after epoch 2" in capsys.readouterr().err
    assert validated() == [1]
    assert fit("--config", path) == 0
    assert validated() == [1, 2, 3]


@pytest.mark.slow
def test_a_run_that_may_not_stop_yet_pauses(tiny: Write) -> None:
    """A score that ends the run after its first epoch, but for `min_epochs`."""
    stopping = {"monitor": "val/top1", "mode": "max", "stopping_threshold": -1.0}
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stopping}
    trainer = {"max_epochs": 9, "min_epochs": 3, "limit_train_batches": 1, "callbacks": [callback]}
    path = tiny({"trainer": trainer})
    assert fit("--config", path, "--run.checkpoint.pause_after", 2) == 76
    assert fit("--config", path) == 0
    assert json.loads((RUN / "summary.json").read_text())["epochs"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [-1, 3, 9])
def test_a_run_of_some_steps_that_paused_equals_the_whole(tiny: Write, epochs: int) -> None:
    """Continued from the end of an epoch, and then from a step within a later one."""
    trainer = {"max_epochs": epochs, "max_steps": 12, "check_val_every_n_epoch": 7, "limit_train_batches": 5}
    path = tiny({"trainer": trainer, "run": {"checkpoint": {"every_n_steps": 1, "keep": [8]}}})
    assert fit("--config", path, "--run.name", "whole") == 0
    assert fit("--config", path, "--run.name", "paused", "--run.checkpoint.pause_after", 1) == 76
    assert fit("--config", path, "--run.name", "paused") == 0
    paused = Path("runs/paused/seed-0")
    branch_off(paused, 8, Path("runs/twice/seed-0"), yaml.safe_load((paused / "config.yaml").read_text()))
    assert fit("--config", path, "--run.name", "twice") == 0

    def result(name: str) -> tuple[str, list[int], dict[str, Any]]:
        folder = Path("runs", name, "seed-0")
        rows = pd.read_csv(folder / "metrics.csv").query("epoch > 0 or `train/loss` > 0")  # not the pause's validation
        rows = rows[["step", "epoch", "lr", "train/loss", "val/loss", "test/loss"]]
        summary = json.loads((folder / "summary.json").read_text())
        counts = [summary[key] for key in ("steps", "epochs", "images_seen")]
        weights = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        return rows.to_csv(index=False), counts, weights

    whole = result("whole")
    for name in ("paused", "twice"):
        rows, counts, weights = result(name)
        assert (rows, counts) == whole[:2]
        assert all(torch.equal(weights[key], tensor) for key, tensor in whole[2].items())


@pytest.mark.slow
def test_a_run_that_continues_within_its_last_epoch_validates_it(tiny: Write) -> None:
    trainer = {"max_epochs": 3, "check_val_every_n_epoch": 2, "limit_train_batches": 4}
    path = tiny({"trainer": trainer, "run": {"checkpoint": {"every_n_steps": 1, "keep": [10]}}})
    assert fit("--config", path) == 0
    whole = pd.read_csv(RUN / "metrics.csv")["val/top1"].dropna().tolist()
    branch_off(RUN, 10, Path("runs/later/seed-0"), yaml.safe_load((RUN / "config.yaml").read_text()))
    assert fit("--config", path, "--run.name", "later") == 0
    assert pd.read_csv("runs/later/seed-0/metrics.csv")["val/top1"].dropna().tolist() == whole
    assert len(whole) == 2


# ---- help


def test_the_help_is_one_screen_and_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 24
    assert all(f"  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize(("command", "answer"), [("fti", "Did you mean `fit`?"), ("sweep", "There are: fit, ")])
def test_a_misspelt_command_is_answered_with_ours(
    command: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command]) == 2
    assert f"no command '{command}'. {answer}" in capsys.readouterr().err


def test_what_needs_no_parser_is_answered_before_torch_is_loaded(tmp_path: Path) -> None:
    calls = [["--version"], [], ["fit", "--config=~/none.yaml"]]
    code = f"import sys; from vitlab.__main__ import main; print(*map(main, {calls}), 'torch' in sys.modules)"
    environment = {**os.environ, "HOME": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines()[0] == f"vitlab {vitlab.__version__}"
    assert done.stdout.endswith("0 0 2 False\n")
    assert f"No configuration {Path.cwd()}/none.yaml" in done.stderr


def test_a_finished_run_is_trained_on_as_the_message_says(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny({"trainer": {"limit_train_batches": 2}, "run": {"test": False}})
    assert fit("--config", path) == 0
    assert fit("--config", path, "--model.optimizer.lr", "0.1") == 2
    assert "ckpt_path" not in capsys.readouterr().err
    assert fit("--config", path, "--trainer.max_epochs", "2") == 2
    given = capsys.readouterr().err.partition("--run.name NEW ")[2].partition(";")[0].split()
    assert fit("--config", path, "--trainer.max_epochs", "2", "--run.name", "new", *given) == 0
    assert json.loads(Path("runs/new/seed-0/summary.json").read_text())["steps"] == 4
    capsys.readouterr()
    assert fit("--config", path, "--run.name", "new") == 2  # for less
    assert "ckpt_path" not in capsys.readouterr().err


def test_the_users_folder_and_variables_are_expanded_in_paths(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    monkeypatch.setenv("LAB", "lab")
    settings = {"run": {"root": "~/$LAB"}, "ckpt_path": "$LAB/a.ckpt", "model": {"init_args": {"init_from": "~/b.pth"}}}
    config = Experiment(tiny(settings)).config
    assert config["run"]["root"] == f"{Path.cwd()}/lab"
    assert config["model"]["init_args"]["init_from"] == f"{Path.cwd()}/b.pth"
    tiny(name="lab")
    assert Experiment.from_arguments(["--config=~/$LAB.yaml"]).config["run"]["name"] == "lab"
    parser = StudyParser("python -m vitlab test", "")
    parser.add_argument("--images", type=Path, nargs="+")
    assert parser.parse_args(["--images", "~/a", "b"]).images == [Path.cwd() / "a", Path("b")]


def test_print_config_prints_what_would_run(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    """Of Lightning's limits a whole number counts batches and a fraction is a share: 1 is not 1.0, which is all."""
    limits = {
        "limit_train_batches": "1",
        "limit_val_batches": "1.0",
        "limit_test_batches": "0.5",
        "overfit_batches": "0",
    }
    given = [word for name, value in limits.items() for word in (f"--trainer.{name}", value)]
    given += ["--seed_everything", "1", "--model.backbone.init", "null", "--model.optimizer.lr", "0.5"]
    config = printed(*given, "--config", tiny(), capsys=capsys)  # arguments beat a file that is given after them
    assert config["seed_everything"] == 1  # --print_config=skip_default of jsonargparse would drop it
    optimizer = config["model"]["init_args"]["optimizer"]["init_args"]
    assert (optimizer["lr"], optimizer["weight_decay"]) == (0.5, 0.3)
    assert config["model"]["init_args"]["backbone"]["init_args"]["init"] is None  # within a class within a class
    assert {name: repr(config["trainer"][name]) for name in limits} == limits


def test_the_runs_of_a_study_keep_their_wandb_setting(tiny: Write) -> None:
    resolved = Experiment(load_yaml(tiny({"run": {"wandb": {"mode": "online"}}}))).config
    assert resolved["run"]["wandb"]["mode"] == "online"


@pytest.mark.slow
def test_probe_measures_a_runs_features(tiny: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny()
    fit("--config", path)
    arguments = ["--config", str(RUN / "config.yaml")]
    assert run("probe", arguments) == 0
    trained = json.loads((RUN / "probe-last.json").read_text())
    assert trained["linear"]["low"] > 0.1  # chance
    assert (trained["train_images"], trained["test_images"]) == (1198, 599)
    assert [low_shot["name"].split()[0] for low_shot in trained["low_shot"]] == ["1", "2", "5", "10"]
    assert "5 labels per class" in capsys.readouterr().out
    assert run("probe", ["--config", str(path), "--ckpt_path", "none"]) == 0  # the untrained encoder
    assert "weights as built" in capsys.readouterr().out


def test_gradients_are_clipped_in_mixed_precision(tiny: Callable[..., Path]) -> None:
    """What most experiments do on a GPU. Lightning refuses an optimizer that would divide scaled gradients itself."""
    trainer = {"precision": "bf16-mixed", "gradient_clip_val": 1.0e-3, "limit_train_batches": 2}
    assert run("fit", ["--config", str(tiny({"trainer": trainer, "run": {"test": False}}))]) == 0
    state = torch.load("runs/tiny/seed-0/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    # The mean of two gradients of length 0.001 or less each, by AdamW's weights of 0.9 and 0.1 on them.
    mean = torch.cat([moments["exp_avg"].flatten() for moments in state.values()])
    assert 0 < float(mean.norm()) <= (0.1 + 0.9 * 0.1) * 1.0e-3 * (1 + 1e-4)
