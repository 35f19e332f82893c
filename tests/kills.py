"""Runs of every objective that are forks of the process that tests, and what can happen to them there."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.conftest import TINY
from vitlab.commands.dispatch import run
from vitlab.config import Config, merge
from vitlab.objectives import Objective
from vitlab.objectives.teacher import Teacher
from vitlab.runs.checkpoints import RunCheckpoints
from vitlab.runs.exactness import disagreements
from vitlab.runs.loggers import MetricsFile
from vitlab.runs.record import RunRecord


def die(*args: object, **kwargs: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner: type, name: str, times: int, then: Callable[..., None] = die) -> None:
    """Let a method do its work; do something after the n-th time."""
    method, count = getattr(owner, name, lambda *args, **kwargs: None), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        result = method(*args, **kwargs)
        count += 1
        if count == times:
            then(*args, **kwargs)
        return result

    setattr(owner, name, counted)


def torn_write(times: int) -> None:
    """Die with half of the n-th checkpoint on the disk."""
    save, count = torch.save, 0

    def torn(checkpoint: object, file: Any) -> None:
        nonlocal count
        count += 1
        save(checkpoint, file)
        if count == times:
            file.truncate(file.tell() // 2)
            die()

    torch.save = torn  # type: ignore[assignment]


def between_renames(times: int) -> None:
    """Die when `last.ckpt` has become `previous.ckpt` and the new one has not yet its name."""
    replace, count = Path.replace, 0

    def renamed(self: Path, target: Path) -> Path:
        nonlocal count
        result = replace(self, target)
        if target.name == "previous.ckpt":
            count += 1
            if count == times:
                die()
        return result

    Path.replace = renamed  # type: ignore[method-assign, assignment]


def torn_row(times: int) -> None:
    """Die with half of the n-th row of metrics.csv on the disk."""

    def halve(self: MetricsFile, *args: object, **kwargs: object) -> None:
        text = self.path.read_text()
        self.path.write_text(text[: -len(text.splitlines()[-1]) // 2])
        die()

    after(MetricsFile, "log_metrics", times, halve)


# What the forked process does to itself before it runs; the number counts from the process's own start.
MOMENTS: dict[str, Callable[[int], None]] = {
    "after a step": lambda n: after(RunRecord, "on_train_batch_end", n),
    "after backward": lambda n: after(Objective, "on_after_backward", n),
    "in validation": lambda n: after(RunRecord, "on_validation_batch_start", n),
    "at an epoch's end": lambda n: after(RunCheckpoints, "on_train_epoch_end", 1),
    "writing a checkpoint": torn_write,
    "naming a checkpoint": between_renames,
    "writing a row": torn_row,
    "testing": lambda n: after(RunRecord, "on_test_batch_end", 1),
    "tested": lambda n: after(RunRecord, "on_test_end", 1),
}


def forked(arguments: list[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Run `vitlab fit` in a fork of this process; return its exit status, negative for the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            sys.stdout = sys.stderr = Path("log.txt").open("a", buffering=1)  # noqa: SIM115 (open until it dies)
            os.dup2(sys.stderr.fileno(), 2)  # of what is no Python, too
            Teacher.examine = lambda *args: None  # type: ignore[method-assign]  # these few steps make no teacher
            prepare()
            status = run("fit", arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


VIT: Config = {
    "class_path": "vitlab.models.VisionTransformer",
    "init_args": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "drop_path_rate": 0.2},
}
SWIN = {
    "class_path": "vitlab.models.SwinTransformerV2",
    "init_args": {
        "patch_size": 2,
        "embed_dim": 16,
        "depths": [2, 2],
        "num_heads": [2, 2],
        "window_size": 4,
        "drop_path_rate": 0.2,
    },
}
CROPS = {
    "global_crops": {"number": 2, "size": 16, "scale": [0.4, 1.0], "blur_prob": [0.0]},
    "local_crops": {"number": 2, "size": 8, "scale": [0.1, 0.4], "blur_prob": [0.0]},
}


def objective(name: str, backbone: Config, data: Config | None = None, **arguments: Any) -> Config:
    recipe = {key: TINY["model"]["init_args"][key] for key in ("optimizer", "schedule")}
    model = {"class_path": f"vitlab.objectives.{name}", "init_args": {"backbone": backbone, **recipe, **arguments}}
    return {"model": model, "data": {"init_args": {"image_size": 16, **(data or {})}}}


OBJECTIVES: dict[str, Config] = {
    "supervised": objective(
        "Supervised", SWIN, {"mixup": {"mixup_alpha": 0.8}, "augment": {"erase_prob": 0.3}}, ema={"decay": 0.99}
    ),
    "distillation": objective(
        "Distillation",
        VIT,
        teacher={"model": VIT | {"init_args": VIT["init_args"] | {"img_size": 16}}},
        target={"class_path": "vitlab.objectives.SoftTarget"},
    ),
    "simmim": objective("SimMIM", SWIN, mask_patch_size=4),
    "mae": objective("MAE", VIT, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
    "um_mae": objective("UMMAE", SWIN, mask_patch_size=2, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2),
    "dino": objective(
        "DINO", VIT, {"multi_crop": CROPS}, out_dim=32, hidden_dim=32, bottleneck_dim=16, freeze_last_layer=0
    ),
    "ibot": objective(
        "IBOT", VIT, {"multi_crop": CROPS}, out_dim=32, hidden_dim=32, bottleneck_dim=16, freeze_last_layer=0
    ),
    "esvit": objective(
        "EsViT", SWIN, {"multi_crop": CROPS}, out_dim=32, hidden_dim=32, bottleneck_dim=16, freeze_last_layer=0
    ),
    "data2vec": objective("Data2Vec", VIT, min_mask_patches=1, target_layers=1),
    "lejepa": objective("LeJEPA", SWIN, {"multi_crop": CROPS}, hidden_dim=32, proj_dim=8),
    "msn": objective("MSN", VIT, {"multi_crop": CROPS}, num_prototypes=8, hidden_dim=32, output_dim=16),
}


@pytest.fixture
def experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """Return a function that writes an objective's experiment: three epochs of five batches."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, accumulate: int = 1) -> Path:
        trainer = {"max_epochs": 3, "limit_train_batches": 5, "limit_val_batches": 3, "limit_test_batches": 2}
        short = {
            "data": {"init_args": {"batch_size": 32, "eval_batch_size": 40, "hold_on_device": False}},
            "trainer": {**trainer, "accumulate_grad_batches": accumulate},
            "run": {"checkpoint": {"every_n_steps": 2, "max_time_share": 1.0, "best": True}},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merge(merge(TINY, short), OBJECTIVES[name])))
        return path

    return write


def last_words() -> str:
    return Path("log.txt").read_text()[-3000:]


def continued_after_a_kill(arguments: list[str], step: int = 7) -> dict[str, Any]:
    """Kill a run after a step that no checkpoint holds, and continue it; it must equal a run left alone.

    Returns the last checkpoint.
    """
    assert forked([*arguments, "--run.root", "whole"]) == 0, last_words()
    killed = forked(arguments, lambda: after(RunRecord, "on_train_batch_end", step))
    assert killed == -signal.SIGKILL, last_words()
    assert forked(arguments) == 0, last_words()
    assert disagreements(Path("whole/tiny/seed-0"), Path("runs/tiny/seed-0")) == []
    state: dict[str, Any] = torch.load("runs/tiny/seed-0/checkpoints/last.ckpt", weights_only=True)
    return state
