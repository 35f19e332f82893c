"""Does this experiment, on this machine, go on after a kill as if nothing had happened? Two short runs tell.

One is left alone; the other, the same to the letter, is killed (SIGKILL) again and again and started again, like a job
on a cluster. Then weights, averages, the optimizer's state, the generators, metrics and predictions are compared.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

from vitlab.config import Config, merge

# Columns of metrics.csv that measure the machine.
TIMINGS = ("data_wait", "images_per_second", "tflops", "mfu")

# What a checkpoint holds that is the result of the run; the rest tells when and where it ran.
RESULTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")

# What makes any experiment short; nothing else of it is changed.
EPOCHS, VALIDATED = 2, 2


def shortened(config: Config, steps: int, root: Path) -> Config:
    """Return an experiment with so many steps altogether, in two epochs, of which every other writes its state."""
    batches = max(1, steps // EPOCHS) * int(config["trainer"].get("accumulate_grad_batches") or 1)
    return merge(
        config,
        {
            "trainer": {
                "max_epochs": EPOCHS,
                "max_steps": -1,
                "limit_train_batches": batches,
                "limit_val_batches": VALIDATED,
                "limit_test_batches": VALIDATED,
            },
            "run": {
                "root": str(root),
                "overwrite": False,
                "wandb": {"mode": "disabled"},
                "checkpoint": {"every_n_steps": 2, "max_time_share": 1.0},
            },
        },
    )


def disagreements(undisturbed: Path, other: Path) -> list[str]:
    """Return in what the results of two run directories differ; nothing if they are equal to the bit."""
    found: list[str] = []
    states = [
        torch.load(run / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
        for run in (undisturbed, other)
    ]
    for part in RESULTS:
        found += [f"{part}{where}" for where in _unequal(states[0][part], states[1][part])]
    generators = [state["callbacks"].get("RandomState") for state in states]
    found += [f"random generators{where}" for where in _unequal(*generators)]
    tables = [pd.read_csv(run / "metrics.csv") for run in (undisturbed, other)]
    tables = [table.drop(columns=[c for c in TIMINGS if c in table]) for table in tables]
    if not tables[0].equals(tables[1]):
        rows = [len(table) for table in tables]
        found.append("metrics.csv" if rows[0] == rows[1] else f"metrics.csv: {rows[0]} rows and {rows[1]}")
    files = [run / "predictions.parquet" for run in (undisturbed, other)]
    if files[0].is_file() != files[1].is_file():
        found.append("predictions.parquet is there only once")
    elif files[0].is_file() and not pd.read_parquet(files[0]).equals(pd.read_parquet(files[1])):
        found.append("predictions.parquet")
    return found


def _unequal(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield the places at which two nests of dictionaries, lists, tensors and values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        # Bytes, so that a NaN is equal to itself.
        same = a.shape == b.shape and a.dtype == b.dtype and np.array_equal(_bytes(a), _bytes(b))
        if not same:
            yield where
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _unequal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(x, y, f"{where}.{i}")
    elif a != b:
        yield where


def _bytes(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0)


class Patient:
    """One run in processes of its own, which can be killed while it trains."""

    def __init__(self, config: Path, name: str, seed: int) -> None:
        self.command = [sys.executable, "-m", "vitlab", "fit", "--config", str(config), "--run.name", name]
        self.log = config.with_name(f"{name}.log")
        self.directory = config.parent / name / f"seed-{seed}"
        self.kills: list[int] = []

    def start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as file:
            return subprocess.Popen(self.command, stdout=file, stderr=file, start_new_session=True)

    def run_to_the_end(self) -> None:
        """Run, and return when it has finished.

        Raises:
            ValueError: it failed; with the last lines that it wrote.
        """
        self._expect_success(self.start())

    def run_with_kills(self, at: Sequence[int], rng: random.Random) -> None:
        """Kill the run soon after it has written its state of each of these steps, and start it again."""
        for step in at:
            process = self.start()
            while process.poll() is None and (self.step() or 0) < step:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.2))
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()
                self.kills.append(step)
            elif process.returncode:
                self._expect_success(process)
        self.run_to_the_end()

    def step(self) -> int | None:
        """Return the step of the newest state, or None where there is none."""
        file = self.directory / "checkpoints" / "last.ckpt"
        try:
            return int(torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"])
        except (OSError, RuntimeError):
            return None

    def _expect_success(self, process: subprocess.Popen[bytes]) -> None:
        if process.wait():
            said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            raise ValueError("The experiment fails by itself, without any kill:\n" + "\n".join(said))


def examine(config: Config, steps: int, kills: int, folder: Path, seed: int) -> tuple[list[int], list[str]]:
    """Train twice in `folder`, once killed so many times; return the steps of the kills and the disagreements."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(shortened(config, steps, folder), sort_keys=False), encoding="utf-8")
    undisturbed, killed = (Patient(file, name, config["seed_everything"]) for name in ("undisturbed", "killed"))
    undisturbed.run_to_the_end()
    rng = random.Random(seed)
    last = json.loads((undisturbed.directory / "summary.json").read_text(encoding="utf-8"))["steps"]
    at = sorted(rng.sample(range(1, last), min(kills, last - 1)))
    killed.run_with_kills(at, rng)
    return killed.kills, disagreements(undisturbed.directory, killed.directory)
