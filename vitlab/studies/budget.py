"""How long every variant of a study trains: equal epochs, images, training FLOPs or minutes.

A budget is converted into whole epochs per variant before training starts, so that schedules span the whole training
and runs are reproducible. FLOPs and speed are measured first, on this machine.
"""

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vitlab.evaluation.cost import Cost


@dataclass(frozen=True)
class Budget(ABC):
    """The amount of a resource that each variant may spend."""

    amount: float

    @abstractmethod
    def images(self, images_per_epoch: int, cost: Cost | None) -> float:
        """Return the number of training images it allows; `cost` is not None if `measured`."""

    @property
    def measured(self) -> bool:
        """Whether it depends on the cost of a variant."""
        return False

    def epochs(self, images_per_epoch: int, cost: Cost | None) -> int:
        """Return the nearest whole number of epochs.

        Raises:
            ValueError: less than half an epoch.
        """
        bought = self.images(images_per_epoch, cost) / images_per_epoch
        if bought < 0.5:
            raise ValueError(f"a budget of {self} is {bought:.2g} epochs of {images_per_epoch:,} images. Raise it.")
        return max(1, math.floor(bought + 0.5))

    @abstractmethod
    def __str__(self) -> str: ...


class Epochs(Budget):
    """Passes over the training images."""

    def images(self, images_per_epoch: int, cost: Cost | None) -> float:
        return self.amount * images_per_epoch

    def __str__(self) -> str:
        return f"{self.amount:,} epochs"


class ImagesSeen(Budget):
    """Training images, counting repetitions."""

    def images(self, images_per_epoch: int, cost: Cost | None) -> float:
        return self.amount

    def __str__(self) -> str:
        return f"{self.amount:,} training images"


class TrainingFlops(Budget):
    """Floating-point operations of forward and backward passes."""

    @property
    def measured(self) -> bool:
        return True

    def images(self, images_per_epoch: int, cost: Cost | None) -> float:
        assert cost is not None
        return self.amount / cost.train_flops

    def __str__(self) -> str:
        return f"{self.amount:.3g} training FLOPs"


class Minutes(Budget):
    """Wall-clock time of training steps at the measured speed; loading and validation are extra."""

    @property
    def measured(self) -> bool:
        return True

    def images(self, images_per_epoch: int, cost: Cost | None) -> float:
        assert cost is not None
        return 60 * self.amount * cost.train_images_per_second

    def __str__(self) -> str:
        return f"{self.amount:g} minute{'' if self.amount == 1 else 's'} of training"


KINDS: Mapping[str, type[Budget]] = {
    "epochs": Epochs,
    "images": ImagesSeen,
    "flops": TrainingFlops,
    "minutes": Minutes,
}


def parse_budget(value: Any) -> Budget | None:
    """Parse a study's `budget`; None leaves the base's number of epochs.

    Raises:
        ValueError: not exactly one kind, or no valid amount; the message does not name the file.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError(f"budget: {value!r}. Expected one of {', '.join(KINDS)}, like `budget: {{epochs: 30}}`.")
    ((kind, amount),) = value.items()
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(KINDS)}."
        raise ValueError(f"unknown key of `budget` `{kind}`. {hint}")
    if kind in ("epochs", "images") and (type(amount) is not int or amount < 1):
        raise ValueError(f"budget: {kind}: {amount!r}. Expected a whole number from 1.")
    if type(amount) not in (int, float) or not 0 < amount < math.inf:
        raise ValueError(f"budget: {kind}: {amount!r}. Expected a number above 0; YAML wants 1.0e+15, not 1e15.")
    return KINDS[kind](amount)
