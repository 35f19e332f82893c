"""What a model costs on the machine at hand: parameters, FLOPs, images per second, memory.

One call measures one model and belongs in a process of its own, because peak memory is a property of the process.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vitlab.files import write_text
from vitlab.models import ImageModel
from vitlab.studies.energy import EnergyMeter, meter_for
from vitlab.utilisation import flops_of, wait_for

WARM_UP = 5  # steps
REPETITIONS = 30  # timed steps at least, but fewer where they exceed the time budget
LEAST_REPETITIONS = 3
LEAST_SECONDS = 0.5  # thirty steps of a tiny model fit into one hiccup of the machine
SECONDS = 4.0  # time budget for each of training and inference


@dataclass(frozen=True)
class Cost:
    """The cost of one model in float32; a training step is forward, cross-entropy, backward and AdamW.

    `flops` are of one image's forward pass, `train_flops` of forward and backward; a multiplication with its addition
    counts as two (papers on vision models usually count it as one and call that FLOPs, or MACs). Peak memory is what
    the CUDA allocator gave out at most, or on a CPU how far the process grew beyond its size before. Joules are of the
    whole device and None where it has no meter (`energy`).
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

    def write(self, path: Path) -> None:
        """Write as JSON, atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Cost":
        """Read what `write` wrote.

        Raises:
            ValueError: another version of vitlab wrote it.
        """
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.keys() != {field.name for field in fields(cls)}:
            raise ValueError(f"{path} was written by another version of vitlab. Remove it to measure anew.")
        return cls(**content)


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


def measure(model: ImageModel, input_shape: tuple[int, int, int], batch_size: int, device: torch.device) -> Cost:
    """Measure one model on random images.

    Args:
        model: In float32; is moved to the device and trained on noise, so it is of no use afterwards.
        input_shape: Channels, height, width of one image.
        batch_size: Of training and of inference.
    """
    before = PeakMemory(device)
    model = model.to(device)
    images = torch.randn(batch_size, *input_shape, device=device)
    labels = torch.randint(model.num_classes, (batch_size,), device=device)

    flops = count_flops(model, images[:1])
    train_flops = count_train_flops(model, images[:2], labels[:2])
    meter = meter_for(device)
    model.eval()
    before.reset_peak()
    with torch.inference_mode():
        inference, inference_joules = _time(lambda: model(images), device, meter)
    inference_peak = before.growth()

    model.train()
    before.reset_peak()
    training, train_joules = _time(_training_step(model, images, labels), device, meter)
    train_peak = before.growth()
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=flops,
        train_flops=train_flops,
        train_images_per_second=batch_size / median(training),
        inference_images_per_second=batch_size / median(inference),
        train_peak_bytes=train_peak,
        inference_peak_bytes=inference_peak,
        train_joules_per_image=train_joules and train_joules / batch_size,
        inference_joules_per_image=inference_joules and inference_joules / batch_size,
        batch_size=batch_size,
        repetitions=min(len(training), len(inference)),
        device=device_name(device),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


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


def _time(
    step: Callable[[], object], device: torch.device, meter: EnergyMeter | None
) -> tuple[list[float], float | None]:
    """Return the seconds of repeated steps, after the warm-up, and the mean joules of one."""
    start = time.perf_counter()
    for _ in range(WARM_UP):
        step()
        wait_for(device)
        if time.perf_counter() - start > SECONDS / 2:
            break
    times: list[float] = []
    joules = meter.joules() if meter else 0.0
    start = time.perf_counter()
    while not _enough(len(times), time.perf_counter() - start):
        begin = time.perf_counter()
        step()
        wait_for(device)
        times.append(time.perf_counter() - begin)
    return times, (meter.joules() - joules) / len(times) if meter else None


def _enough(repetitions: int, seconds: float) -> bool:
    if seconds > SECONDS:
        return repetitions >= LEAST_REPETITIONS
    return repetitions >= REPETITIONS and seconds > LEAST_SECONDS


class PeakMemory:
    """Peak memory since `reset_peak`, beyond what was in use at construction."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.base = self._used()

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif sys.platform == "linux":
            # proc(5): sets the peak resident size to the current one. A sandbox may forbid it; then the peak of
            # starting Python counts, which only matters to models smaller than their libraries.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")

    def growth(self) -> int:
        return max(0, self._peak() - self.base)

    def _used(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device)
        return process_status("VmRSS") if sys.platform == "linux" else _peak_resident()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return process_status("VmHWM") if sys.platform == "linux" else _peak_resident()


def process_status(field: str) -> int:
    """Return a size from /proc/self/status (Linux) in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc/self/status has no {field}")


def _peak_resident() -> int:
    import resource  # here: Windows has none, and every command imports this file

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
