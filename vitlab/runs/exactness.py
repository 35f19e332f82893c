"""Whether two runs are the same run, to the bit; and whether a run that is killed and continued is.

    assert not differences_after_kills(["my.yaml", "--trainer.max_epochs", "2"], kills=[3, 8], root=tmp_path)

trains an experiment twice, once undisturbed and once killed (SIGKILL) and started again, like a job on a cluster.

Also the state that Lightning does not keep, without which a continued run would differ from an uninterrupted one.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vitlab.distributed import from_all_processes, own_of
from vitlab.internals import epoch_means, is_within_an_epoch
from vitlab.runs.directory import METRICS, PREDICTIONS, SUMMARY, RunDirectory

TIMINGS = ("data_wait", "images_per_second", "tflops", "mfu")  # metrics of the machine
RESULTS = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")  # of a checkpoint's entries


def disagreements(one: Path, other: Path) -> list[str]:
    """Return in what the results of two run directories differ; nothing if they are equal to the bit."""
    runs = [RunDirectory(one), RunDirectory(other)]
    states = [torch.load(run.last_checkpoint, map_location="cpu", weights_only=True) for run in runs]
    places = [f"{part}{where}" for part in RESULTS for where in _unequal(states[0][part], states[1][part])]
    generators = [state["callbacks"].get("RandomState") for state in states]
    places += [f"random generators{where}" for where in _unequal(*generators)]
    a, b = (run.history.drop(columns=[*TIMINGS], errors="ignore") for run in runs)
    if not a.equals(b):
        places.append(METRICS if len(a) == len(b) else f"{METRICS}: {len(a)} rows and {len(b)}")
    files = [run.path / PREDICTIONS for run in runs]
    if files[0].is_file() != files[1].is_file():
        places.append(f"{PREDICTIONS} is there only once")
    elif files[0].is_file() and not pd.read_parquet(files[0]).equals(pd.read_parquet(files[1])):
        places.append(PREDICTIONS)
    if all(run.is_finished for run in runs):
        metrics = [{name: x for name, x in run.metrics.items() if name not in TIMINGS} for run in runs]
        places += [f"{SUMMARY}{where}" for where in _unequal(metrics[0], metrics[1])]
    return places


def _unequal(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield the places at which two nests of dictionaries, lists, tensors and values differ."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        # As bytes, of which a NaN equals itself.
        bits = [x.detach().contiguous().reshape(-1).view(torch.uint8) for x in (a, b)]
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(*bits):
            yield where
    elif isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a:
            yield from _unequal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _unequal(x, y, f"{where}.{i}")
    elif a != b:
        yield where


def differences_after_kills(arguments: Sequence[str], kills: Sequence[int], root: Path) -> list[str]:
    """Train an experiment twice below `root`, killed once the state of each step in `kills` is written.

    `arguments` are those of `fit`; `--run.checkpoint.every_n_steps 1` lets a kill follow any step.
    """
    whole, killed = (_trained(arguments, at, root / name) for name, at in (("whole", ()), ("killed", kills)))
    return disagreements(whole, killed)


def _trained(arguments: Sequence[str], kills: Sequence[int], root: Path) -> Path:
    root.mkdir(parents=True)
    command = [sys.executable, "-m", "vitlab", "fit", *arguments]
    command += ["--run.root", str(root), "--run.name", "run", "--run.wandb.mode", "disabled"]
    for step in (*kills, None):
        with (root / "log.txt").open("w+", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            written = 0
            while process.poll() is None and (step is None or written < step):
                time.sleep(0.002)
                with suppress(OSError, RuntimeError):  # while it is renamed
                    for checkpoint in root.glob("run/seed-*/checkpoints/last.ckpt") if step is not None else ():
                        stored = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
                        written = int(stored["global_step"])
            if process.poll() is None:
                os.killpg(process.pid, 9)
            elif process.returncode or step is not None:
                log.seek(0)
                raise RuntimeError("ended before any kill:\n" + "\n".join(log.read().splitlines()[-5:]))
            process.wait()
    return next(root.glob("run/seed-*"))


# Entries of environment.json on which the last bit of a sum depends.
DECISIVE = (
    *("device", "devices", "precision", "compiled", "torch", "threads"),
    *("cpu_capability", "onednn_max_cpu_isa", "mkl_cbwr"),
)


class RandomState(Callback):
    """Keeps the state of every random generator in the checkpoint, so that dropout continues where it stopped."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._built = torch.get_rng_state()  # after the model; Lightning seeds again where there are several processes

    def state_dict(self) -> dict[str, Any]:
        return {"processes": from_all_processes(generators())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = own_of(state_dict["processes"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the state; what the model and the loaders drew while they were built is undone here."""
        if self._state is None:
            if trainer.world_size > 1:  # continue as a single process would
                torch.set_rng_state(self._built)
            return
        set_generators(self._state)
        self._state = None


def generators() -> dict[str, Any]:
    """Return the state of every random generator of this process."""
    _, keys, *position = np.random.get_state()  # noqa: NPY002 (the global generator is the one that libraries use)
    version, python, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Asking would put a context of every process, also of a run on the CPU, onto the first GPU.
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "python": [version, list(python), gauss],
    }


def set_generators(state: dict[str, Any]) -> None:
    """Set every random generator of this process to a state that `generators` returned."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    keys, *position = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))


class EpochMeans(Callback):
    """Keeps the running means of the epoch in the checkpoint; Lightning starts them from zero.

    A mean is a sum and a count for each metric that `self.log(…, on_epoch=True)` averages over the training batches,
    added once the continued run has logged the metric.
    """

    def __init__(self) -> None:
        self.trainer: Trainer | None = None
        self._missing: dict[str, list[Tensor]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.trainer = trainer if stage == "fit" else None

    def state_dict(self) -> dict[str, Any]:
        # At the end of an epoch the sums are still there, but complete.
        means = epoch_means(self.trainer) if self.trainer is not None and is_within_an_epoch(self.trainer) else {}
        own = {name: [mean.value.cpu(), mean.cumulated_batch_size.cpu()] for name, mean in means.items()}
        return {"processes": from_all_processes(own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._missing = dict(own_of(state_dict["processes"]) or {})

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        means = epoch_means(trainer) if self._missing else {}
        for name in self._missing.keys() & means.keys():
            (value, count), mean = self._missing.pop(name), means[name]
            mean.value = mean.value + value.to(mean.value.device)
            mean.cumulated_batch_size = mean.cumulated_batch_size + count.to(mean.cumulated_batch_size.device)


def inexact(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences between two environments because of which a run cannot continue bit for bit."""
    known = [name for name in DECISIVE if name in before]
    return [f"{name} was {before[name]}, is {now[name]}" for name in known if before[name] != now[name]]
