"""What a continued run needs beyond what Lightning keeps, so that it is the undisturbed run to the bit."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vitlab.distributed import from_all_processes, own_of

# What decides about the last bit of a sum, from a run's environment.json.
DECISIVE = ("device", "devices", "precision", "compiled", "torch", "threads")


class RandomState(Callback):
    """Keeps every random generator's state in the checkpoint, so that dropout goes on where it stopped."""

    def __init__(self) -> None:
        self._state: dict[str, Any] | None = None
        self._built = torch.get_rng_state()  # with the model; where there are several processes, Lightning seeds again

    def state_dict(self) -> dict[str, Any]:
        return {"processes": from_all_processes(generators())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = own_of(state_dict["processes"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore: whatever building the model and the loaders drew is undone here."""
        if self._state is None:
            if trainer.world_size > 1:  # go on where one process would
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
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), *position],
        "python": [version, list(python), gauss],
    }


def set_generators(state: dict[str, Any]) -> None:
    """Bring every random generator of this process into a state that `generators` gave."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    keys, *position = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *position))  # noqa: NPY002
    version, python, gauss = state["python"]
    random.setstate((version, tuple(python), gauss))


class EpochMeans(Callback):
    """Keeps in the checkpoint what the epoch's means have summed up so far; Lightning begins them anew.

    A sum and a count for each metric that `self.log(…, on_epoch=True)` averages over the training batches. They are
    added back once the continued run has logged the metric for the first time: x + s is s + x, also in floating point.
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._missing: dict[str, list[Tensor]] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = trainer if stage == "fit" else None

    def state_dict(self) -> dict[str, Any]:
        # At the end of an epoch the sums are still there, but complete.
        means = self._means() if self._amid_an_epoch() else []
        own = {name: [metric.value.cpu(), metric.cumulated_batch_size.cpu()] for name, metric in means}
        return {"processes": from_all_processes(own)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._missing = dict(own_of(state_dict["processes"]) or {})

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if not self._missing:
            return
        for name, metric in self._means():
            if name in self._missing:
                value, count = self._missing.pop(name)
                metric.value = metric.value + value.to(metric.value.device)
                metric.cumulated_batch_size = metric.cumulated_batch_size + count.to(metric.cumulated_batch_size.device)

    def _amid_an_epoch(self) -> bool:
        if self._trainer is None:
            return False
        epochs: Any = self._trainer.fit_loop.epoch_progress.current
        return bool(epochs.processed < epochs.ready)

    def _means(self) -> list[tuple[str, Any]]:
        results: Mapping[str, Any] = self._trainer.fit_loop.epoch_loop._results if self._trainer is not None else {}
        return [
            (name, metric)
            for name, metric in results.items()
            if metric.is_tensor and metric.meta.on_epoch and metric.meta.is_mean_reduction and metric.update_called
        ]


def inexact(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return why a continued run cannot be the undisturbed one to the bit: what is decisive and differs."""
    known = [name for name in DECISIVE if name in before]
    return [f"{name} was {before[name]}, is {now[name]}" for name in known if before[name] != now[name]]
