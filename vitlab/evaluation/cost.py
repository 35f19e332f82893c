"""What a training costs on a device: FLOPs, speed, peak memory, energy.

Peak memory is on a GPU that of its tensors, on a CPU the growth of the process. A measurement begins when glibc has
given freed memory back to the system (malloc_trim(3)); with another C library the process keeps it, and grows less than
its tensors. Energy counters are NVML's for a GPU, RAPL's for a CPU; many machines have neither.
"""

import contextlib
import copy
import ctypes
import gc
import os
import platform
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitlab.internals import count_attention_on_cpu
from vitlab.models import ImageModel
from vitlab.models.backbone import in_eval_mode

PASSES = 5  # of which the median is the speed of inference
GEMM_SIDE = 4096  # large enough to keep the largest GPU busy for a tenth of a millisecond
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>
RAPL = Path("/sys/class/powercap")

count_attention_on_cpu()


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


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done its queued work; a CPU has when a call returns."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops_of(step: Callable[[], object]) -> int:
    """Count the FLOPs of a step as torch does: two per multiply-add, recomputed ones included."""
    # torch 2.11 never compiles a function that it first meets under a counter.
    with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def count_flops(model: nn.Module, image: Tensor) -> int:
    """Count the FLOPs of one forward pass; fused attention counts as its matrix products."""
    model.eval()
    with torch.no_grad():
        return flops_of(lambda: model(image))


def count_flops_in_training(model: nn.Module, images: Tensor) -> int:
    """Count the FLOPs per image of a forward pass in training, of two images or more, as batch norm needs."""
    model.train()
    with torch.no_grad():
        return flops_of(lambda: model(images)) // len(images)


def inference_cost(
    encoder: ImageModel, backbone: ImageModel, images: Tensor, precision: Callable[[], AbstractContextManager[None]]
) -> dict[str, float]:
    """Return what a forward pass of a trained encoder takes on the device of `images`, as in a test.

    `flops` are of one image, two per multiply-add. `train_forward_flops`, of the backbone in training, are fewer where
    a model averages several views at test time.
    """
    device, place = images.device, next(encoder.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # what comes later draws as without
        trained = copy.deepcopy(backbone).to(device)  # whose statistics change
        train_forward_flops = count_flops_in_training(trained, images[:1].expand(2, -1, -1, -1))
        del trained
    encoder.to(device)
    seconds = []
    with in_eval_mode(encoder), encoder.biases_kept(), torch.inference_mode(), precision():
        memory = PeakMemory(device)
        for _ in range(PASSES + 1):
            wait_for(device)
            begin = time.perf_counter()
            encoder(images)
            wait_for(device)
            seconds.append(time.perf_counter() - begin)
        peak = memory.growth()
    with in_eval_mode(encoder):
        flops = count_flops(encoder, images[:1])
    encoder.to(place)
    return {
        "flops": flops,
        "train_forward_flops": train_forward_flops,
        "inference_images_per_second": len(images) / median(seconds[1:]),  # the first warms up
        "inference_peak_bytes": peak + sum(each.nbytes for each in (*encoder.parameters(), *encoder.buffers())),
    }


def dtype_of(precision: str) -> torch.dtype:
    """Return the data type in which a Trainer of this precision multiplies."""
    if precision.startswith("bf16"):
        return torch.bfloat16
    return {"16": torch.float16, "64": torch.float64}.get(precision[:2], torch.float32)


def choose_tf32(precision: str) -> None:
    """Use TF32 for float32 products on a GPU, several times as fast, where the run is in mixed precision anyway.

    By default PyTorch uses it for convolutions only. These are its older switches, which Lightning reads.
    """
    mixed = precision.endswith("-mixed")
    torch.set_float32_matmul_precision("high" if mixed else "highest")
    torch.backends.cudnn.allow_tf32 = mixed


def gemm_peak(
    dtype: torch.dtype,
    device: torch.device,
    side: int = GEMM_SIDE,
    repetitions: int = 20,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the FLOP/s of the fastest of several matrix squarings."""
    # Not zeros or other regular numbers, which a GPU multiplies faster. The run's own generators stay where they are.
    a = torch.randn(side, side, generator=torch.Generator(device).manual_seed(0), device=device, dtype=dtype)
    in_a_row = 10 if device.type == "cuda" else 1  # to start one product and wait for it takes a tenth of its time
    best = float("inf")
    for _ in range(repetitions):
        wait_for(device)
        begin = clock()
        for _ in range(in_a_row):
            a @ a
        wait_for(device)
        best = min(best, (clock() - begin) / in_a_row)
    return 2.0 * side**3 / best


class PeakMemory:
    """Peak memory since construction, beyond what was in use then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            _call("malloc_trim", 0)
            # proc(5): sets the peak resident size to the current one. Where this is forbidden only what exceeds an
            # earlier peak counts, which matters to models smaller than their libraries.
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        self.base = self.peak()

    def peak(self) -> int:
        """Return the bytes at the peak, with what was in use before."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "linux":
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024
        import resource  # here: Windows has none, and every command imports this file

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def growth(self) -> int:
        """Return the bytes at the peak, beyond what was in use at construction."""
        return self.peak() - self.base


def bytes_of_tensors() -> int:
    """Return the bytes of all live tensors: weights, moments, gradients, also those that no module owns."""
    tensors = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]
    tensors += [tensor.grad for tensor in tensors if tensor.is_leaf and tensor.grad is not None]
    sizes = {}  # by address
    for tensor in tensors:
        with contextlib.suppress(RuntimeError):  # of torch.compile's fake tensors, which have no address or no storage
            storage = tensor.untyped_storage()
            if storage.device.type != "meta":
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def hold_freed_memory() -> None:
    """Keep freed memory for the next training step, which needs the same amount; else it is page-faulted in again.

    The values are the largest that glibc accepts.
    """
    _call("mallopt", M_MMAP_THRESHOLD, 32 * 2**20)
    _call("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)
    _call("mallopt", M_TOP_PAD, 256 * 2**20)


def _call(function: str, *arguments: int) -> None:
    with contextlib.suppress(AttributeError, OSError, TypeError):
        getattr(ctypes.CDLL(None), function)(*arguments)


class Nvml:
    """The counter of a CUDA device's whole board (Volta and newer), other programs included."""

    def __init__(self, device: torch.device) -> None:
        """Raise OSError if the driver's library or the counter is missing."""
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self._check(self.library.nvmlInit_v2())
        self.handle = ctypes.c_void_p()
        # By UUID: NVML does not follow CUDA_VISIBLE_DEVICES.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        self._check(self.library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self.handle)))
        self.joules()

    def joules(self) -> float:
        """Return the energy since some fixed moment."""
        millijoules = ctypes.c_ulonglong()
        self._check(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle, ctypes.byref(millijoules)))
        return millijoules.value / 1e3

    def _check(self, code: int) -> None:
        if code != 0:
            raise OSError(f"NVML error {code}")


class Rapl:
    """The counters of the processor packages, which usually only root can read; other programs included."""

    def __init__(self, root: Path = RAPL) -> None:
        """Raise OSError if there is no readable counter."""
        # AMD's too; neither a package's parts nor the platform, which includes the packages.
        names = [name for name in sorted(root.glob("intel-rapl:?/name")) if name.read_text().startswith("package")]
        self.counters = [name.with_name("energy_uj") for name in names]
        if not self.counters:
            raise OSError(f"no energy counter in {root}")
        self.ranges = [int(counter.with_name("max_energy_range_uj").read_text()) for counter in self.counters]
        self.last = self._read()
        self.total = 0.0

    def joules(self) -> float:
        """Return the energy since some fixed moment."""
        now = self._read()
        for before, after, size in zip(self.last, now, self.ranges, strict=True):
            self.total += (after - before) % size / 1e6  # a counter wraps around at its range
        self.last = now
        return self.total

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self.counters]


def meter_for(device: torch.device) -> Nvml | Rapl | None:
    """Return the meter of a device, or None if it has none."""
    try:
        return Nvml(device) if device.type == "cuda" else Rapl()
    except OSError:
        return None
