"""What the framework costs: a run by Lightning, and a plain PyTorch loop that takes each of its steps once more.

The two share a process and take turns, so that whatever else the machine does happens to both. The plain loop has a
copy of the model, of the optimizer and of its schedule, and a plain DataLoader in the same order. It logs nothing,
keeps nothing and checks nothing: what a run takes longer are hooks, callbacks, logging, checks and the progress bar. As
the two do the same arithmetic on the same images, their weights stay equal to the bit.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from vitlab.data.sampler import TrainSampler
from vitlab.evaluation.interleaved_timing import Quartiles, clock_for, ratios

WARM_UP = 5  # steps


class BareLoop:
    """The loop that a user without a framework would write, of a supervised objective."""

    def __init__(self, trainer: Trainer, module: Any) -> None:
        self.module, self.precision = module, trainer.precision_plugin
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.model = copy.deepcopy(module.backbone)
        twins = dict(zip(module.backbone.parameters(), self.model.parameters(), strict=True))
        (given,) = trainer.optimizers
        groups = [group | {"params": [twins[p] for p in group["params"]]} for group in given.param_groups]
        make: Any = type(given)  # torch's; each group names its settings
        self.optimizer: torch.optim.Optimizer = make(groups)
        (config,) = trainer.lr_scheduler_configs
        schedule: Any = config.scheduler
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule.lr_lambdas)
        self.batches = self._batches()

    def _batches(self) -> Iterator[Any]:
        data = self.data
        dataset = data.dataset("train")
        sampler = TrainSampler(len(dataset), data.seed, batch_size=data.batch_size)
        while True:
            yield from DataLoader(dataset, data.batch_size, sampler=sampler, drop_last=True, collate_fn=lambda x: x)
            sampler.epoch += 1

    def step(self) -> None:
        """Train on the next batch."""
        batch = move_data_to_device(next(self.batches), self.module.device)
        (images,), labels = self.data.on_after_batch_transfer(batch, 0)
        self.optimizer.zero_grad()
        with self.precision.forward_context():
            loss = self.module.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


class BesideBareLoop(Callback):
    """Takes turns with a plain loop, step by step, and writes both times.

    Args:
        file: JSON with the seconds of each step of both.
    """

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.seconds: dict[str, list[float]] = {"run": [], "bare": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.world_size > 1 or trainer.accumulate_grad_batches > 1 or pl_module.device.type != "cpu":
            raise ValueError("The two take turns on one CPU, a batch a step: --trainer.accelerator cpu, one device.")
        self.bare = BareLoop(trainer, pl_module)
        self.clock: Callable[[], float] = clock_for(pl_module.device)
        self.mark = self.clock()

    def on_train_batch_end(self, *args: Any) -> None:
        end = self.clock()
        self.bare.step()
        self.seconds["run"].append(end - self.mark)
        self.mark = self.clock()
        self.seconds["bare"].append(self.mark - end)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.file.write_text(json.dumps(self.seconds), encoding="utf-8")


def share(seconds: Mapping[str, list[float]]) -> Quartiles:
    """Return what a step of the run costs over one of the plain loop."""
    return ratios(seconds["run"][WARM_UP:], seconds["bare"][WARM_UP:])
