"""Whole trainings, from command to end: `vitlab fit` beside timm's own `train.py` on the same folder of photographs.

Both see the same images, model, batch, number of epochs and workers, random crops, flips and erasing, AdamW, and the
validation after each epoch; each keeps its own checkpoints, logs and progress. They take turns, each first every other
time. On a machine that others use too, the processor time of all of a command's processes is what can be trusted; on an
idle one it and the time on the clock give the same ratio, as both keep all cores busy.

Also here: how long a command takes until it trains, beside what importing its three largest packages takes.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from vitlab.data.folder import list_images
from vitlab.studies.peers import TRAINER_PRECISION, Precision, size_of

RATE, WEIGHT_DECAY, ERASE = 5e-4, 0.05, 0.25


@dataclass(frozen=True)
class Spent:
    """What a command took, all of its processes together."""

    seconds: float
    processor_seconds: float


@dataclass(frozen=True)
class Training:
    """What is trained by both."""

    name: str
    precision: Precision
    root: Path
    batch_size: int
    epochs: int
    workers: int
    compiled: bool

    @cached_property
    def classes(self) -> int:
        """How many the folder has."""
        return len(list_images(self.root)[0])

    @cached_property
    def images(self) -> int:
        """Training images of all epochs."""
        return self.epochs * len(list_images(self.root)[1]["train"][0])

    def experiment(self) -> dict[str, object]:
        """Return it as an experiment of vitlab's."""
        return {
            "model": {
                "class_path": "vitlab.objectives.Supervised",
                "init_args": {
                    "backbone": {"class_path": f"vitlab.models.{self.name}"},
                    "optimizer": {
                        "class_path": "vitlab.optim.AdamW",
                        "init_args": {"lr": RATE, "weight_decay": WEIGHT_DECAY},
                    },
                    "schedule": {"class_path": "vitlab.optim.WarmupCosine"},
                },
            },
            "data": {
                "class_path": "vitlab.data.ImageFolder",
                "init_args": {
                    "root": str(self.root.resolve()),
                    "image_size": size_of(self.name)[0],
                    "batch_size": self.batch_size,
                    "num_workers": self.workers,
                    "augment": {"rand_augment": None, "erase_prob": ERASE},
                },
            },
            "trainer": {
                "max_epochs": self.epochs,
                "precision": TRAINER_PRECISION[self.precision],
            },
            "run": {"test": False, "compile": self.compiled, "wandb": {"mode": "disabled"}},
        }

    def arguments_of_timm(self, device: str) -> list[str]:
        """Return it as arguments of timm's `train.py`."""
        values = {
            "data-dir": self.root.resolve(),
            "val-split": "val",
            "model": self.name,
            "num-classes": self.classes,
            "batch-size": self.batch_size,
            "epochs": self.epochs,
            "workers": self.workers,
            "device": device,
            "opt": "adamw",
            "lr": RATE,
            "weight-decay": WEIGHT_DECAY,
            "warmup-epochs": 0,
            "color-jitter": 0,
            "train-interpolation": "bicubic",
            "reprob": ERASE,
            "output": "timm",
        }
        given = [word for name, value in values.items() for word in (f"--{name}", str(value))]
        amp = ["--amp", "--amp-dtype", "bfloat16"] if self.precision == "bfloat16" else []
        return [*given, *amp, *(["--torchcompile"] if self.compiled else [])]


@dataclass(frozen=True)
class Race:
    """One training by both. Ratios are our images/s over timm's: above 1 is faster."""

    training: Training
    ours: list[Spent]
    timms: list[Spent]

    def rate(self, spent: Sequence[Spent]) -> float:
        """Return images/s from command to end, on the clock."""
        return self.training.images / statistics.median(s.seconds for s in spent)

    @property
    def ratio(self) -> float:
        """By the clock."""
        return statistics.median(b.seconds / a.seconds for a, b in zip(self.ours, self.timms, strict=True))

    @property
    def processor_ratio(self) -> float:
        """By processor time."""
        pairs = zip(self.ours, self.timms, strict=True)
        return statistics.median(b.processor_seconds / a.processor_seconds for a, b in pairs)


def race(training: Training, train_py: Path, device: str, repetitions: int) -> Race:
    """Let both train so many times, in turn."""
    ours: list[Spent] = []
    timms: list[Spent] = []
    with tempfile.TemporaryDirectory() as folder:
        experiment = Path(folder) / "experiment.yaml"
        experiment.write_text(yaml.safe_dump(training.experiment()), encoding="utf-8")
        fit = [sys.executable, "-m", "vitlab", "fit", "--config", str(experiment), "--run.overwrite", "true"]
        fit += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu"]
        script = [sys.executable, str(train_py.resolve()), *training.arguments_of_timm(device)]
        for repetition in range(repetitions):
            turns = [(fit, ours), (script, timms)]
            for command, spent in turns if repetition % 2 == 0 else reversed(turns):
                spent.append(spend(command, Path(folder)))
    return Race(training, ours, timms)


def spend(command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Spent:
    """Run a command in a folder; return what it took.

    Raises:
        ValueError: it failed; with the last lines that it wrote.
    """
    with tempfile.TemporaryFile("w+") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            log.seek(0)
            said = "\n".join(log.read().strip().splitlines()[-5:])
            raise ValueError(f"{' '.join(command[:4])} … failed:\n{said}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime)


def markdown(races: Sequence[Race], machine: str) -> str:
    """Return the table, with the machine and the versions in its header."""
    import timm
    import torch

    lines = [
        f"{machine}, torch {torch.__version__}, timm {timm.__version__}. From command to end. Ratios are our "
        "images/s over timm's: above 1 is faster.",
        "",
        "| model | precision | images | batch | images/s | timm's | ratio by the clock | by processor time | runs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in races:
        how = f"{r.training.precision}, compiled" if r.training.compiled else r.training.precision
        lines.append(
            f"| {r.training.name} | {how} | {r.training.images:,} | {r.training.batch_size} | {r.rate(r.ours):.1f} | "
            f"{r.rate(r.timms):.1f} | {r.ratio:.2f} | **{r.processor_ratio:.2f}** | {len(r.ours)} |"
        )
    return "\n".join(lines) + "\n"


IMPORTS = "import torch, lightning, timm"


def start_up(repetitions: int) -> dict[str, list[Spent]]:
    """Time one training step on the digits from the command on, both helps, and the imports they are measured by."""
    python = [sys.executable]
    commands = {
        "imports": [*python, "-c", IMPORTS],
        "one step": [*python, "-m", "vitlab", "fit", "--config", "one_step.yaml", "--run.overwrite", "true"],
        "fit --help": [*python, "-m", "vitlab", "fit", "--help"],
        "--help": [*python, "-m", "vitlab", "--help"],
    }
    spent: dict[str, list[Spent]] = {name: [] for name in commands}
    with tempfile.TemporaryDirectory() as folder:
        experiment = Training("vit_tiny_patch4_32", "float32", Path(), 32, 1, 0, False).experiment() | {
            "data": {"class_path": "vitlab.data.Digits", "init_args": {"batch_size": 2}},
            "trainer": {"accelerator": "cpu", "max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0},
        }
        (Path(folder) / "one_step.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")
        for _ in range(repetitions):
            for name, command in commands.items():
                spent[name].append(spend(command, Path(folder)))
    return spent
