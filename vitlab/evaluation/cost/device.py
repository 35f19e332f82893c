"""The device that is measured: its name, its clock, and when it has done its work."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch


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


def clock_for(device: torch.device) -> Callable[[], float]:
    """Return the clock that other programs disturb least: with several threads, waiting also counts as process time."""
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
