"""What an experiment costs on a machine: parameters, FLOPs, images per second, memory, energy; `step` measures it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from vitlab.atomic_files import read_json, write_text

READY = "vitlab benchmark: ready"  # printed by `benchmark --in_turn` before the first turn and after each
UNSTEADY = 1.25  # third quartile of the turns over the first, above which images/s are not reliable


@dataclass(frozen=True)
class Cost:
    """The cost of an experiment on one device: one training step, and inference with its encoder.

    A training step is all that the objective does in one, decoder, teacher and averages included, in the experiment's
    precision, with its optimizer, clipping and accumulation. `flops` are of one image's forward pass, `train_flops` of
    a training step per image, without the optimizer and what gradient checkpointing repeats; two per multiply-add
    (papers on vision models usually count one and call it FLOPs, or MACs). `train_forward_flops`, of the backbone's
    forward pass in training, are fewer than `flops` where a model averages several views at test time. Where training
    images grow, `train_flops` are the mean over the run, `mean_share` is this mean divided by the FLOPs of the largest,
    and all else is of the largest. Peak memory while training is that of all tensors; on a CPU inference is charged
    with the growth of the process. Joules are of the whole device; None if it has no meter (`energy`).

    Images per second are of the median turn, the quartiles are over turns. `processes` worked on the device at once,
    as many as the study's runs do. `others` is the number of `cores` that other programs used meanwhile; None on a GPU,
    or where the system does not report it.
    """

    parameters: int
    flops: int
    train_flops: int
    train_images_per_second: float
    inference_images_per_second: float
    train_peak_bytes: int
    inference_peak_bytes: int
    train_joules_per_image: float | None
    inference_joules_per_image: float | None
    batch_size: int
    repetitions: int
    device: str
    threads: int
    torch: str
    train_quartiles: tuple[float, float] | None = None
    inference_quartiles: tuple[float, float] | None = None
    others: float | None = None
    cores: int | None = None
    precision: str = "32-true"
    compiled: bool = False
    processes: int = 1
    train_forward_flops: int | None = None
    mean_share: float = 1.0

    @property
    def disturbed(self) -> bool:
        """Whether other programs used cores that the measurement needed."""
        if self.others is None or self.cores is None:
            return False
        return self.others + self.processes * self.threads > self.cores + 0.25

    @property
    def unsteady(self) -> bool:
        """Whether the speed of the turns differs much."""
        quartiles = filter(None, (self.train_quartiles, self.inference_quartiles))
        return any(third > UNSTEADY * first for first, third in quartiles)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Cost":
        """Read what `write` wrote.

        Raises:
            ValueError: another version of vitlab wrote it.
        """
        content: dict[str, Any] = read_json(path)
        if content.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"{path} was written by another version of vitlab. Remove it to measure again.")
        quartiles: dict[str, Any] = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return cls(**content | quartiles)


def doubts(costs: Mapping[str, Cost]) -> list[str]:
    """Return why the measured speeds of some models, by name, are unreliable; nothing if they are reliable."""
    reasons = []
    worst = max(costs.values(), key=lambda cost: cost.disturbed * (cost.others or 0), default=None)
    if worst and worst.disturbed:
        reasons.append(f"other programs used {worst.others:.1f} of {worst.cores} cores")
    unsteady = [name for name, cost in costs.items() if cost.unsteady]
    if unsteady:
        reasons.append(f"the speed of {', '.join(unsteady)} changed by more than a quarter from turn to turn")
    if not reasons:
        return []
    return [
        f"Images/s are unreliable: while cost was measured, {' and '.join(reasons)}. Repeat the command on an idle "
        "machine; a study measures again if you remove the files cost.json of its variants."
    ]
