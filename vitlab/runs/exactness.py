"""Whether two runs are the same run, to the bit; and whether a run that is killed and continued is.

    assert not differences_after_kills(["my.yaml", "--trainer.max_epochs", "2"], kills=[3, 8], root=tmp_path)

trains an experiment twice, once undisturbed and once killed (SIGKILL) and started again, like a job on a cluster.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from vitlab.runs.directory import METRICS, PREDICTIONS, SUMMARY, RunDirectory

TIMINGS = ("data_wait", "images_per_second", "tflops", "mfu")  # metrics of the machine
RESULTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")  # of a checkpoint's entries


def disagreements(one: Path, other: Path) -> list[str]:
    """Return in what the results of two run directories differ; nothing if they are equal to the bit."""
    runs = [RunDirectory(one), RunDirectory(other)]
    places = unequal_states(*(run.last_checkpoint for run in runs))
    tables = [run.history.drop(columns=[*TIMINGS], errors="ignore") for run in runs]
    if not tables[0].equals(tables[1]):
        rows = [len(table) for table in tables]
        places.append(METRICS if rows[0] == rows[1] else f"{METRICS}: {rows[0]} rows and {rows[1]}")
    files = [run.path / PREDICTIONS for run in runs]
    if files[0].is_file() != files[1].is_file():
        places.append(f"{PREDICTIONS} is there only once")
    elif files[0].is_file() and not pd.read_parquet(files[0]).equals(pd.read_parquet(files[1])):
        places.append(PREDICTIONS)
    if all(run.is_finished for run in runs):
        a, b = ({name: x for name, x in run.metrics.items() if name not in TIMINGS} for run in runs)
        places += [f"{SUMMARY}{where}" for where in _unequal(a, b)]
    return places


def unequal_states(one: Path, other: Path) -> list[str]:
    """Return in what two checkpoints differ: weights, averages, optimizer, schedule, steps, random generators."""
    states = [torch.load(path, map_location="cpu", weights_only=True) for path in (one, other)]
    places = [f"{part}{where}" for part in RESULTS for where in _unequal(states[0][part], states[1][part])]
    generators = [state["callbacks"].get("RandomState") for state in states]
    return places + [f"random generators{where}" for where in _unequal(*generators)]


def _unequal(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield the places at which two nests of dictionaries, lists, tensors and values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(_bytes(a), _bytes(b)):
            yield where
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _unequal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(x, y, f"{where}.{i}")
    elif a != b:
        yield where


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor as bytes, of which a NaN equals itself."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def differences_after_kills(arguments: Sequence[str], kills: Sequence[int], root: Path) -> list[str]:
    """Train an experiment twice below `root`, killed once the state of each step in `kills` is written.

    Args:
        arguments: of `fit`; `--run.checkpoint.every_n_steps 1` lets a kill follow any step.

    Raises:
        RuntimeError: it ended before it was killed, by a failure or because it was too short; with its last lines.
    """
    whole, killed = (_trained(arguments, at, root / name) for name, at in (("whole", ()), ("killed", kills)))
    return disagreements(whole, killed)


def _trained(arguments: Sequence[str], kills: Sequence[int], root: Path) -> Path:
    """Train, and return the run directory."""
    root.mkdir(parents=True)
    command = [sys.executable, "-m", "vitlab", "fit", *arguments]
    command += ["--run.root", str(root), "--run.name", "run", "--run.wandb.mode", "disabled"]
    for step in (*kills, None):
        with (root / "log.txt").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            while process.poll() is None and (step is None or _step_written(root) < step):
                time.sleep(0.002)
            if process.poll() is None:
                os.killpg(process.pid, 9)
            elif process.returncode or step is not None:
                log.seek(0)
                raise RuntimeError("ended before any kill:\n" + "\n".join(log.read().splitlines()[-5:]))
            process.wait()
    return next(root.glob("run/seed-*"))


def _step_written(root: Path) -> int:
    with suppress(OSError, RuntimeError):  # while it is renamed
        for checkpoint in root.glob("run/seed-*/checkpoints/last.ckpt"):
            return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    return 0
