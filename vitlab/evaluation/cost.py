"""What a model costs on the machine at hand: parameters, FLOPs, images per second, memory.

A `CostMeter` measures one model and belongs in a process of its own, because peak memory is a property of the process.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitlab.atomic_files import write_text
from vitlab.evaluation.busy_cores import Neighbors
from vitlab.evaluation.energy import meter_for
from vitlab.evaluation.flops import flops_of, wait_for
from vitlab.evaluation.interleaved_timing import clock_for
from vitlab.evaluation.memory import PeakMemory
from vitlab.models import ImageModel

TURNS = 5  # of each model; those that are compared alternate (`sitting`)
WARM_UP = 5  # steps before the first turn
REPETITIONS = 6  # timed steps of a turn at least, but fewer where they exceed its time
LEAST_SECONDS = 0.1  # six steps of a tiny model fit into one hiccup of the machine
SECONDS = 0.8  # of a turn, each for training and inference
UNSTEADY = 1.25  # the fastest turn over the slowest, above which images/s are not to be relied on
READY = "vitlab benchmark: ready"
"""What a process says that measures in turn, before the first turn and after each."""


@dataclass(frozen=True)
class Cost:
    """The cost of one model in float32; a training step is forward, cross-entropy, backward and AdamW.

    `flops` are of one image's forward pass, `train_flops` of forward and backward; a multiplication with its addition
    counts as two (papers on vision models usually count it as one and call that FLOPs, or MACs). Peak memory is what
    the CUDA allocator gave out at most, or on a CPU how far the process grew beyond its size before. Joules are of the
    whole device and None where it has no meter (`energy`).

    Images per second are of the median turn, `train_range` and `inference_range` of the slowest and the fastest.
    `others` is how many of the `cores` that the process may use other programs took meanwhile; None on a GPU, or where
    the system does not tell. Files of older versions lack these.
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
    train_range: tuple[float, float] | None = None
    inference_range: tuple[float, float] | None = None
    others: float | None = None
    cores: int | None = None

    @property
    def disturbed(self) -> bool:
        """Say whether other programs took cores that the measurement had use for."""
        return self.others is not None and self.cores is not None and self.others + self.threads > self.cores + 0.25

    @property
    def unsteady(self) -> bool:
        """Say whether the turns lie far apart."""
        ranges = [found for found in (self.train_range, self.inference_range) if found is not None]
        return any(fastest > UNSTEADY * slowest for slowest, fastest in ranges)

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Cost":
        """Read what `write` wrote.

        Raises:
            ValueError: another version of vitlab wrote it.
        """
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        if not needed <= content.keys() <= {field.name for field in fields(cls)}:
            raise ValueError(f"{path} was written by another version of vitlab. Remove it to measure anew.")
        ranges = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return cls(**{**content, **ranges})


def doubts(costs: Mapping[str, Cost]) -> list[str]:
    """Say why the speeds of some models, by their names, are not to be relied on; nothing where they are."""
    found = []
    disturbed = [cost for cost in costs.values() if cost.disturbed]
    if disturbed:
        worst = max(disturbed, key=lambda cost: cost.others or 0)
        found.append(f"other programs took {worst.others:.1f} of {worst.cores} cores")
    unsteady = [name for name, cost in costs.items() if cost.unsteady]
    if unsteady:
        found.append(f"the speed of {', '.join(unsteady)} changed by more than a quarter from turn to turn")
    if not found:
        return []
    return [
        f"Do not rely on images/s: while cost was measured, {' and '.join(found)}. Remove the files cost.json and "
        "measure again when the machine is idle."
    ]


def device_for(accelerator: str) -> torch.device:
    """Return the device that a Trainer with this `accelerator` would use, of CPU and CUDA."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return what the device calls itself, like "NVIDIA H200" or "AMD EPYC 7B13, 2 cores"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'CPU'}, {os.cpu_count()} cores"


@dataclass
class _Timed:
    """What was measured of one kind of step: seconds of the median step by turn, steps and joules in all."""

    seconds: list[float] = field(default_factory=list)
    steps: int = 0
    joules: float = 0.0
    peak_bytes: int = 0


class CostMeter:
    """Measures one model on random images, a turn at a time.

    Args:
        model: In float32; is moved to the device and trained on noise, so it is of no use afterwards.
        input_shape: Channels, height, width of one image.
        batch_size: Of training and of inference.
    """

    def __init__(
        self, model: ImageModel, input_shape: tuple[int, int, int], batch_size: int, device: torch.device
    ) -> None:
        self.memory = PeakMemory(device)
        self.device, self.model = device, model.to(device)
        self.images = torch.randn(batch_size, *input_shape, device=device)
        self.labels = torch.randint(model.num_classes, (batch_size,), device=device)
        self.flops = count_flops(model, self.images[:1])
        self.train_flops = count_train_flops(model, self.images[:2], self.labels[:2])
        self.energy, self.neighbors = meter_for(device), Neighbors() if device.type == "cpu" else None
        self.inference, self.training = _Timed(), _Timed()

    def take_turn(self) -> None:
        """Time inference and training for a while."""
        self.model.eval()
        with torch.inference_mode():
            self._time(lambda: self.model(self.images), self.inference)
        self.model.train()
        self._time(_training_step(self.model, self.images, self.labels), self.training)
        self.model.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the next turn is another process's

    def cost(self) -> Cost:
        """Return what the turns so far, one at least, have found."""
        size = len(self.images)
        joules = [
            timed.joules / timed.steps / size if self.energy else None for timed in (self.training, self.inference)
        ]
        return Cost(
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            flops=self.flops,
            train_flops=self.train_flops,
            train_images_per_second=size / median(self.training.seconds),
            inference_images_per_second=size / median(self.inference.seconds),
            train_peak_bytes=self.training.peak_bytes,
            inference_peak_bytes=self.inference.peak_bytes,
            train_joules_per_image=joules[0],
            inference_joules_per_image=joules[1],
            batch_size=size,
            repetitions=min(self.training.steps, self.inference.steps),
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            train_range=(size / max(self.training.seconds), size / min(self.training.seconds)),
            inference_range=(size / max(self.inference.seconds), size / min(self.inference.seconds)),
            others=self.neighbors.mean if self.neighbors else None,
            cores=self.neighbors.cores if self.neighbors else None,
        )

    def _time(self, step: Callable[[], object], timed: _Timed) -> None:
        first, clock = not timed.seconds, clock_for(self.device)
        if first:
            self.memory.reset_peak()
            self._warm_up(step)
        times: list[float] = []
        joules = self.energy.joules() if self.energy else 0.0
        start = time.perf_counter()
        with self.neighbors or nullcontext():
            while not _enough(len(times), time.perf_counter() - start):
                begin = clock()
                step()
                wait_for(self.device)
                times.append(clock() - begin)
        timed.joules += self.energy.joules() - joules if self.energy else 0.0
        timed.seconds.append(median(times))
        timed.steps += len(times)
        if first:
            timed.peak_bytes = self.memory.growth()

    def _warm_up(self, step: Callable[[], object]) -> None:
        start = time.perf_counter()
        for _ in range(WARM_UP):
            step()
            wait_for(self.device)
            if time.perf_counter() - start > SECONDS:
                break


def count_flops(model: nn.Module, image: Tensor) -> int:
    """Count the FLOPs of one forward pass; fused attention is counted like its matrix products."""
    model.eval()
    with torch.no_grad():
        return flops_of(lambda: model(image))


def count_train_flops(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Count the FLOPs of a forward and backward pass for each image; two images or more, for batch norm."""
    model.train()
    flops = flops_of(lambda: F.cross_entropy(model(images), labels).backward())
    model.zero_grad()
    return flops // len(images)


def _training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    # The rate is of no account here, except that zero keeps every number finite.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _enough(repetitions: int, seconds: float) -> bool:
    return repetitions > 0 and (seconds > SECONDS or (repetitions >= REPETITIONS and seconds > LEAST_SECONDS))
