"""How long every variant of a study trains: equal epochs, images or training FLOPs.

A budget is converted into a number of epochs per variant before training starts, so that schedules span the whole
training and runs are reproducible. Where whole epochs would miss the budget, each is shortened by the same number of
batches, other images in each epoch. The FLOPs of an image are counted first.
"""

import math
from typing import Annotated, NamedTuple

import torch
from annotated_types import Gt, Lt
from pydantic import PositiveInt, model_validator

from vitlab.config import Config
from vitlab.studies.file.format import Section

Number = Annotated[float | int, Gt(0), Lt(math.inf)]
MISSED = 0.02  # of the budget, by which whole epochs may miss it
REFUSED = 0.05  # of the budget, by which no length may miss it


class Epoch(NamedTuple):
    """The training images of an epoch."""

    batches: int  # of each process
    images: int  # of a batch, over all processes
    step: int = 1  # batches of an optimizer step


class Length(NamedTuple):
    """How long a run is."""

    epochs: int
    batches: int | None = None  # of each epoch; None: all


class Budget(Section):
    """The amount of a resource that each variant may spend."""

    epochs: PositiveInt | None = None
    images: PositiveInt | None = None  # repetitions count
    flops: Number | None = None  # of whole training steps, with all that the objective computes

    @model_validator(mode="after")
    def _has_one_kind(self) -> "Budget":
        if len(self.model_fields_set) != 1:
            raise ValueError("Expected one of epochs, images, flops, like {epochs: 30}.")
        return self

    @property
    def kind(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def amount(self) -> int | float:
        return getattr(self, self.kind)

    def length(self, per_image: float, epoch: Epoch) -> Length:
        """Return the length of a run that spends the budget, if an image costs `per_image` in its unit."""
        epochs = self.amount / (epoch.batches * epoch.images * per_image)
        if epochs < 0.5:
            raise ValueError(f"a budget of {self} is {epochs:.2g} epochs. Raise it.")

        def missed(length: Length) -> float:
            images = epoch.images * (length.batches or epoch.batches)
            return abs(length.epochs * (images * per_image) / self.amount - 1)

        def shortened(epochs: int) -> Length:
            images = self.amount / epochs / per_image
            return Length(epochs, epoch.step * max(1, round(images / (epoch.images * epoch.step))))

        least = math.ceil(epochs)
        lengths = [Length(math.floor(epochs + 0.5)), *map(shortened, range(least, least + 4))]
        length = next((each for each in lengths if missed(each) <= MISSED), min(lengths, key=missed))
        if missed(length) > REFUSED:
            raise ValueError(
                f"a budget of {self} is {epochs:.3g} epochs of {epoch.batches} batches, and whole optimizer steps miss "
                f"it by {missed(length):.0%}. Change it, or give a budget in epochs."
            )
        return length

    def __str__(self) -> str:
        return {
            "epochs": f"{self.amount:,} epoch{'' if self.amount == 1 else 's'}",
            "images": f"{self.amount:,} training images",
            "flops": f"{self.amount:.3g} training FLOPs",
        }[self.kind]


def epoch_of(config: Config, images: int) -> Epoch:
    """Return one epoch over `images` training images, without the last ones that fill no optimizer step."""
    trainer = config.get("trainer", {})
    devices = trainer.get("devices")
    if isinstance(devices, list):
        devices = len(devices)
    elif str(devices) == "-1":
        devices = max(1, torch.cuda.device_count())
    devices = int(devices) if str(devices).isdigit() else 1  # of `auto`, which a study gives one
    processes = (trainer.get("num_nodes") or 1) * devices
    batch, step = processes * config["data"]["init_args"]["batch_size"], trainer.get("accumulate_grad_batches") or 1
    batches, limit = images // (batch * step) * step, trainer.get("limit_train_batches")
    if limit is not None:
        batches = min(batches, limit) if type(limit) is int else int(limit * batches)
    return Epoch(max(batches, step), batch, step)
