"""CIFAR-10: the speedrun's GPU tracks, ViT, Swin and Swin v2, distillation, SimMIM and fine-tuning, LeJEPA.

Each is a `vitlab fit` in a process of its own. When the step's time is over it is told to stop (SIGTERM), writes its
state, and the next call continues it. The time of a run is that of all its parts, with their starts.
"""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from benchmarks.gpu.measurement import ROOT, Cut, Figures, Measurement, Setting
from benchmarks.measuring import options_of
from vitlab.commands.dispatch import run
from vitlab.signals import PAUSED, STOPPED

# In this order: the teacher is there before its student, the pre-training before the fine-tuning.
EXPERIMENTS = (
    "speedrun/gpu_vit",
    "speedrun/gpu_swinv2",
    "vit_cifar10",
    "swin_cifar10",
    "swinv2_cifar10",
    "teacher_cifar10",
    "deit_hard",
    "simmim_vit",
    "finetune_simmim_vit",
    "lejepa_vit_small",
)
TINY_VIT = {"embed_dim": 16, "depth": 1, "num_heads": 1}  # of a dry run
TO_STOP = 20.0  # seconds that a run has to write its state


def measurements(setting: Setting) -> Iterator[Measurement]:
    for name in EXPERIMENTS[:1] if setting.dry else EXPERIMENTS:
        yield Measurement(name, partial(train, name, setting))


def train(name: str, setting: Setting) -> Figures:
    """Train an experiment, or continue it; a `Cut` where the time is over before the run."""
    root = setting.out / "learning"
    directory = root / Path(name).name / ("seed-101" if name.startswith("speedrun") else "seed-0")
    words = arguments(name, root, setting)
    if setting.dry:
        with contextlib.redirect_stderr(io.StringIO()):
            status = run("fit", words)
    else:
        status = fit_apart(words, setting.until, root / f"{Path(name).name}.log")
    if status in (PAUSED, STOPPED) or (status < 0 and time.time() >= setting.until):
        file = directory / "metrics.csv"
        begun = file.is_file() and file.stat().st_size
        raise Cut(epochs=int(pd.read_csv(file)["epoch"].max()) + 1 if begun else 0)
    assert status == 0, f"exit status {status}; see {root}/{Path(name).name}.log"
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    return {
        "epochs": summary["epochs"],
        "minutes": summary["wall_seconds"] / 60,
        "images_seen": summary["images_seen"],
        **{key: value for key, value in summary["metrics"].items() if key.startswith("test") and key.endswith("/top1")},
    }


def fit_apart(words: Sequence[str], until: float, log: Path) -> int:
    """Run `vitlab fit` in a process of its own until some time; return its exit status, negative for a signal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen([sys.executable, "-m", "vitlab", "fit", *words], cwd=ROOT, stdout=file, stderr=file)
    try:
        return process.wait(max(0.0, min(until - time.time(), 1e6)))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(TO_STOP)
        return -signal.SIGKILL
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def arguments(name: str, root: Path, setting: Setting) -> list[str]:
    """Return the arguments of an experiment; in a dry run those of two steps, with a pause between them."""
    changes: dict[str, object] = {
        "data.root": setting.data,
        "run.root": root,
        "run.wandb.mode": "disabled",
        "trainer.enable_progress_bar": False,
    }
    if name == "deit_hard":
        changes |= {f"model.teacher.{key}": root / "teacher_cifar10/seed-0" for key in ("weights", "cache")}
    if name.startswith("finetune"):
        changes["model.init_from"] = root / "simmim_vit/seed-0"
    if setting.dry:
        changes |= {
            "data.batch_size": 4,
            "data.eval_batch_size": 4,
            "trainer.max_epochs": 2,
            "trainer.check_val_every_n_epoch": 1,
            **{f"trainer.limit_{split}_batches": 1 for split in ("train", "val", "test")},
            "trainer.precision": "32-true",
            "run.compile": False,
            **{f"model.backbone.{key}": value for key, value in TINY_VIT.items()},
        }
        if not (root / Path(name).name).exists():
            changes["run.checkpoint.pause_after"] = 1
    file = ROOT / "experiments" / f"{name}.yaml"
    return ["--config", str(file), *options_of(changes)]
