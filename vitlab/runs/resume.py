"""State that Lightning does not keep, and without which a continued run would differ from an uninterrupted one."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from vitlab.distributed import from_all_processes, own_of
from vitlab.internals import epoch_means, is_within_an_epoch

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

    A mean is a sum and a count for each metric that `self.log(…, on_epoch=True)` averages over the training batches.
    They are added once the continued run has logged the metric for the first time: x + s is s + x in floats too.
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
