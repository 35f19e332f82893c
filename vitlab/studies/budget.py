"""How long every variant of a study trains: equal epochs, images, training FLOPs or minutes.

A budget is converted into whole epochs per variant before training starts, so that schedules span the whole training
and runs are reproducible. FLOPs and speed are measured first, on this machine.
"""

import difflib
import math
from dataclasses import dataclass
from typing import Any

from vitlab.evaluation.cost import Cost

KINDS = ("epochs", "images", "flops", "minutes")


@dataclass(frozen=True)
class Budget:
    """The amount of a resource that each variant may spend.

    Attributes:
        kind: `epochs`; `images`, counting repetitions; `flops` of forward and backward passes; `minutes` of training
            steps at the measured speed, to which loading and validation add.
    """

    kind: str
    amount: float

    @property
    def measured(self) -> bool:
        """Whether it depends on the cost of a variant."""
        return self.kind in ("flops", "minutes")

    def epochs(self, images_per_epoch: int, cost: Cost | None) -> int:
        """Return the nearest whole number of epochs; `cost` is not None if `measured`.

        Raises:
            ValueError: less than half an epoch.
        """
        if self.kind == "epochs":
            return int(self.amount)
        images = self.amount
        if cost is not None:
            speed = 60 * cost.train_images_per_second
            images = images / cost.train_flops if self.kind == "flops" else images * speed
        epochs = images / images_per_epoch
        if epochs < 0.5:
            raise ValueError(f"a budget of {self} is {epochs:.2g} epochs of {images_per_epoch:,} images. Raise it.")
        return math.floor(epochs + 0.5)

    def __str__(self) -> str:
        return {
            "epochs": f"{self.amount:,} epochs",
            "images": f"{self.amount:,} training images",
            "flops": f"{self.amount:.3g} training FLOPs",
            "minutes": f"{self.amount:g} minute{'' if self.amount == 1 else 's'} of training",
        }[self.kind]


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
    refuse_unknown([kind], KINDS, "key of `budget`")
    if kind in ("epochs", "images") and (type(amount) is not int or amount < 1):
        raise ValueError(f"budget: {kind}: {amount!r}. Expected a whole number from 1.")
    if type(amount) not in (int, float) or not 0 < amount < math.inf:
        raise ValueError(f"budget: {kind}: {amount!r}. Expected a number above 0; YAML wants 1.0e+15, not 1e15.")
    return Budget(kind, amount)


def refuse_unknown(keys: Any, known: tuple[str, ...], what: str) -> None:
    """Raise ValueError for the first key that is not known, with the nearest one that is."""
    for key in keys:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."
            raise ValueError(f"unknown {what} `{key}`. {hint}")
