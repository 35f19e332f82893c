"""Whole trainings, from command to end: `vitlab fit` against timm's own `train.py` on the same folder of photographs.

    python -m benchmarks.end_to_end --root photos --train_py train.py

The script is in timm's repository, https://github.com/huggingface/pytorch-image-models, of the installed release. Both
see the same images, model, batch, epochs and workers, random crops, mirroring and erasing, AdamW, and a validation
after each epoch; each writes its own checkpoints, logs and progress. They alternate. On a shared machine compare the
processor time of all of a command's processes; on an idle one it gives the same ratio as the clock, since both keep
all cores busy.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import yaml
from tqdm import tqdm

from benchmarks.against_timm import BOTH, NAMES, TRAINER_PRECISION, size_of
from benchmarks.measuring import machine, markdown, options_of, parser_of, save
from vitlab.data.folder import Folder
from vitlab.evaluation.cost import device_for

RATE, WEIGHT_DECAY, ERASE = 5e-4, 0.05, 0.25


@dataclass(frozen=True)
class Spent:  # by a command and all of its processes
    seconds: float
    processor_seconds: float


@dataclass(frozen=True)
class Training:
    name: str
    precision: str
    root: Path
    batch_size: int
    epochs: int
    workers: int
    compiled: bool

    @cached_property
    def classes(self) -> int:
        return len(Folder(self.root).class_names)

    @cached_property
    def images(self) -> int:
        return self.epochs * len(Folder(self.root).splits["train"][0])

    def experiment(self) -> dict[str, object]:
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
            "trainer": {"max_epochs": self.epochs, "precision": TRAINER_PRECISION[self.precision]},
            "run": {"test": False, "compile": self.compiled, "wandb": {"mode": "disabled"}},
        }

    def arguments_of_timm(self, device: str) -> list[str]:
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
        amp = ["--amp", "--amp-dtype", "bfloat16"] if self.precision == "bfloat16" else []
        return [*options_of(values), *amp, *(["--torchcompile"] if self.compiled else [])]


def race(training: Training, train_py: Path, device: str, repetitions: int) -> tuple[list[Spent], list[Spent]]:
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
    return ours, timms


def row(training: Training, ours: Sequence[Spent], timms: Sequence[Spent]) -> dict[str, str]:
    """Return a row of the table. Ratios are medians of neighboring trainings, above 1 where vitlab is faster."""
    pairs = list(zip(ours, timms, strict=True))
    clock = statistics.median(b.seconds / a.seconds for a, b in pairs)
    processor = statistics.median(b.processor_seconds / a.processor_seconds for a, b in pairs)
    rates = [training.images / statistics.median(s.seconds for s in spent) for spent in (ours, timms)]
    return {
        "model": training.name,
        "precision": f"{training.precision}, compiled" if training.compiled else training.precision,
        "images": f"{training.images:,}",
        "batch": str(training.batch_size),
        "images/s": f"{rates[0]:.1f}",
        "timm's": f"{rates[1]:.1f}",
        "ratio by the clock": f"{clock:.2f}",
        "by processor time": f"**{processor:.2f}**",
        "runs": str(len(pairs)),
    }


def spend(command: Sequence[str], folder: Path) -> Spent:
    """Run a command in a folder; a ValueError with its last lines if it failed."""
    with tempfile.TemporaryFile("w+") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            log.seek(0)
            last_lines = "\n".join(log.read().strip().splitlines()[-5:])
            raise ValueError(f"{' '.join(command[:4])} … failed:\n{last_lines}")
    return Spent(seconds, usage.ru_utime + usage.ru_stime)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("end_to_end", __doc__, "end_to_end.md")
    parser.add_argument("names", nargs="*", metavar="NAME", help="models that both have")
    parser.add_argument("--root", type=Path, required=True, help="photographs: train/CLASS and val/CLASS")
    parser.add_argument("--train_py", type=Path, required=True, help="timm's train.py")
    parser.add_argument("--precision", nargs="+", choices=TRAINER_PRECISION, default=list(TRAINER_PRECISION))
    parser.add_argument("--batch", type=int, default=32, help="images per step [32]")
    parser.add_argument("--epochs", type=int, default=1, help="of each training [1]")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode [1]")
    parser.add_argument("--repetitions", type=int, default=3, help="trainings of each [3]")
    parser.add_argument("--compile", action="store_true", help="both with torch.compile")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in BOTH]:
        parser.error(f"vitlab and timm do not both have a model {unknown[0]}")
    for path in (options.train_py, options.root / "train", options.root / "val"):
        if not path.exists():
            parser.error(f"There is no {path}.")
    device = device_for("auto")
    header = f"{machine(device, 'timm')} From command to end. Ratios above 1: vitlab is faster."
    names, rows = options.names or ["vit_tiny_patch16_224", *NAMES[1:3]], []
    for name, precision in tqdm(list(product(names, options.precision))):
        training = Training(
            name, precision, options.root, options.batch, options.epochs, options.workers, options.compile
        )
        rows.append(row(training, *race(training, options.train_py, device.type, options.repetitions)))
        save(options.out / "end_to_end.md", markdown(header, rows))
    print(markdown(header, rows), end="")


if __name__ == "__main__":
    main()
