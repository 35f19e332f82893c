"""What Lightning's loop costs against a plain PyTorch loop.

    python -m benchmarks.framework --config experiments/vit_cifar10.yaml --model.ema null

A callback of the run takes each step once more in a plain loop, in the same process, so that other load on the machine
affects both. The plain loop has copies of the model, the optimizer and the schedule, and a plain DataLoader in the same
order; it logs, stores and checks nothing. Both do the same arithmetic on the same images, so their weights stay equal
to the bit.
"""

import copy
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader

from benchmarks.measuring import CPU, WARM_UP, Quartiles, clock_for, machine, parser_of, ratios, train_steps
from vitlab.data.sampler import TrainSampler
from vitlab.objectives import Supervised


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("framework", __doc__)
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each [40]")
    parser.epilog = "Other options as in `vitlab fit`, for a Supervised experiment without an average (ema: null)."
    options, rest = parser.parse_known_args(arguments)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        plain_loop = {"class_path": "benchmarks.framework.InterleavePlainLoop", "init_args": {"file": str(file)}}
        changes = {"trainer.accelerator": "cpu", "trainer.callbacks": json.dumps([plain_loop])}
        train_steps(rest, folder, options.steps + WARM_UP, changes)
        seconds = json.loads(file.read_text(encoding="utf-8"))
    q1, middle, q3 = overhead(seconds)
    print(machine(CPU, "lightning"))
    step = 1000 * statistics.median(seconds["plain"])
    print(f"A step of {step:.1f} ms takes {middle:.3f} [{q1:.3f}, {q3:.3f}] times as long within the framework.")


class PlainLoop:
    """The loop that a user would write without a framework, for a supervised objective."""

    def __init__(self, trainer: Trainer, module: Any) -> None:
        self.module, self.precision = module, trainer.precision_plugin
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.model = copy.deepcopy(module.backbone)
        copies = dict(zip(module.backbone.parameters(), self.model.parameters(), strict=True))
        (optimizer,) = trainer.optimizers
        groups = [group | {"params": [copies[p] for p in group["params"]]} for group in optimizer.param_groups]
        make: Any = type(optimizer)  # torch's; each group has its settings
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
        batch = move_data_to_device(next(self.batches), self.module.device)
        (images,), labels = self.data.on_after_batch_transfer(batch, 0)
        self.optimizer.zero_grad()
        with self.precision.forward_context():
            loss = F.cross_entropy(self.model(images), labels, label_smoothing=self.module.label_smoothing)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


class InterleavePlainLoop(Callback):
    """Alternates the run's steps with a plain loop's, and writes the seconds of both as JSON to `file`."""

    def __init__(self, file: str) -> None:
        self.file = Path(file)
        self.seconds: dict[str, list[float]] = {"run": [], "plain": []}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Supervised)
        assert pl_module.ema is None, "The plain loop keeps no average: --model.ema null"
        self.plain = PlainLoop(trainer, pl_module)
        self.clock = clock_for(CPU)
        self.mark = self.clock()

    def on_train_batch_end(self, *args: Any) -> None:
        end = self.clock()
        self.plain.step()
        self.seconds["run"].append(end - self.mark)
        self.mark = self.clock()
        self.seconds["plain"].append(self.mark - end)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.file.write_text(json.dumps(self.seconds), encoding="utf-8")


def overhead(seconds: dict[str, list[float]]) -> Quartiles:
    """Return a step's time within the framework over that of the plain loop, after the warm-up."""
    return ratios(seconds["run"][WARM_UP:], seconds["plain"][WARM_UP:])


if __name__ == "__main__":
    main()
