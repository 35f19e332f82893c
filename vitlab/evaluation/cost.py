"""What a model costs on this machine: parameters, FLOPs, images per second, memory, energy.

Run each `CostMeter` in a process of its own, because peak memory is a property of the process.
"""

import json
import os
import platform
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
from vitlab.evaluation.busy_cores import OtherPrograms
from vitlab.evaluation.energy import meter_for
from vitlab.evaluation.flops import clock_for, flops_of, wait_for
from vitlab.evaluation.memory import PeakMemory
from vitlab.models import ImageModel

TURNS = 5  # per model; models that are compared alternate (vitlab/studies/execution/costs.py)
WARM_UP = 5  # steps before the first turn
REPETITIONS = 6  # timed steps per turn at least, fewer if they exceed SECONDS
LEAST_SECONDS = 0.1  # of a turn; six steps of a tiny model are too short to average out load
SECONDS = 0.8  # of a turn, for training and for inference
UNSTEADY = 1.25  # the fastest turn over the slowest, above which images/s are not reliable
READY = "vitlab benchmark: ready"  # printed by `benchmark --in_turn` before the first turn and after each


@dataclass(frozen=True)
class Cost:
    """The cost of one model in float32; a training step is forward, cross-entropy, backward and AdamW.

    `flops` are of one image's forward pass, `train_flops` of forward and backward, two per multiply-add (papers on
    vision models usually count one and call it FLOPs, or MACs). Peak memory is the most that the CUDA allocator gave
    out, or on a CPU the growth of the process. Joules are of the whole device; None if it has no meter (`energy`).

    Images per second are of the median turn, `train_range` and `inference_range` of the slowest and the fastest.
    `others` is the number of `cores` that other programs used meanwhile; None on a GPU, or where the system does not
    report it. Files of older versions lack these.
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
        """Whether other programs used cores that the measurement needed."""
        return self.others is not None and self.cores is not None and self.others + self.threads > self.cores + 0.25

    @property
    def unsteady(self) -> bool:
        """Whether the speed of the turns differs much."""
        ranges = filter(None, (self.train_range, self.inference_range))
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
            raise ValueError(f"{path} was written by another version of vitlab. Remove it to measure again.")
        ranges = {key: tuple(value) for key, value in content.items() if isinstance(value, list)}
        return cls(**{**content, **ranges})


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
        f"Images/s are unreliable: while cost was measured, {' and '.join(reasons)}. Remove the files cost.json and "
        "measure again on an idle machine."
    ]


def device_for(accelerator: str) -> torch.device:
    """Return the device that a Trainer with this `accelerator` would use, of CPU and CUDA."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """Return the name of the device, like "NVIDIA H200" or "AMD EPYC 7B13, 2 cores"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor_name()}, {os.cpu_count()} cores"


def processor_name() -> str:
    """Return the processor's model, like "AMD EPYC 7B13", or where Linux does not tell it, the architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


@dataclass
class _Timed:
    """Measurements of one kind of step: seconds of each turn's median step, total steps and joules."""

    seconds: list[float] = field(default_factory=list)
    steps: int = 0
    joules: float = 0.0
    peak_bytes: int = 0


class CostMeter:
    """Measures one model on random images, a turn at a time.

    Args:
        model: in float32; is moved to the device and trained on noise.
        input_shape: channels, height, width of one image.
        batch_size: of training and inference.
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
        self.energy, self.others = meter_for(device), OtherPrograms() if device.type == "cpu" else None
        self.inference, self.training = _Timed(), _Timed()

    def take_turn(self) -> None:
        """Time inference and training for SECONDS each."""
        self.model.eval()
        with torch.inference_mode():
            self._time(lambda: self.model(self.images), self.inference)
        self.model.train()
        self._time(_training_step(self.model, self.images, self.labels), self.training)
        self.model.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # the next turn is another process's

    def cost(self) -> Cost:
        """Return the result of the turns so far, at least one."""
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
            others=self.others.mean if self.others else None,
            cores=self.others.cores if self.others else None,
        )

    def _time(self, step: Callable[[], object], timed: _Timed) -> None:
        first = not timed.seconds
        if first:
            self.memory.reset_peak()
            self._repeat(step, lambda steps, seconds: steps >= WARM_UP or seconds > SECONDS)
        joules = self.energy.joules() if self.energy else 0.0
        with self.others or nullcontext():
            times = self._repeat(step, _enough)
        timed.joules += self.energy.joules() - joules if self.energy else 0.0
        timed.seconds.append(median(times))
        timed.steps += len(times)
        if first:
            timed.peak_bytes = self.memory.growth()

    def _repeat(self, step: Callable[[], object], enough: Callable[[int, float], bool]) -> list[float]:
        """Return the seconds of each step; `enough` gets the number of steps and the seconds so far."""
        times: list[float] = []
        start, clock = time.perf_counter(), clock_for(self.device)
        while not times or not enough(len(times), time.perf_counter() - start):
            begin = clock()
            step()
            wait_for(self.device)
            times.append(clock() - begin)
        return times


def count_flops(model: nn.Module, image: Tensor) -> int:
    """Count the FLOPs of one forward pass; fused attention counts as its matrix products."""
    model.eval()
    with torch.no_grad():
        return flops_of(lambda: model(image))


def count_train_flops(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Count the FLOPs per image of a forward and backward pass of two or more images, as batch norm needs."""
    model.train()
    flops = flops_of(lambda: F.cross_entropy(model(images), labels).backward())
    model.zero_grad()
    return flops // len(images)


def _training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    # The learning rate does not affect the cost; zero keeps every number finite.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def _enough(steps: int, seconds: float) -> bool:
    return seconds > SECONDS or (steps >= REPETITIONS and seconds > LEAST_SECONDS)
