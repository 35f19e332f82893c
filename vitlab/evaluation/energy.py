"""Energy that the machine says it used: NVML's counter for a GPU, RAPL's for a CPU; many machines report neither."""

import ctypes
from abc import ABC, abstractmethod
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")


class EnergyMeter(ABC):
    """A counter that only rises; it counts everything the device does, other programs included."""

    @abstractmethod
    def joules(self) -> float:
        """Return the energy since some fixed moment."""


class Nvml(EnergyMeter):
    """A CUDA device's own counter (Volta and newer), of the whole board."""

    def __init__(self, device: torch.device) -> None:
        """Raise OSError where the driver's library or the counter is missing."""
        self.library = ctypes.CDLL("libnvidia-ml.so.1")
        self._check(self.library.nvmlInit_v2())
        self.handle = ctypes.c_void_p()
        # By UUID: NVML does not follow CUDA_VISIBLE_DEVICES.
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        self._check(self.library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(self.handle)))
        self.joules()

    def joules(self) -> float:
        millijoules = ctypes.c_ulonglong()
        self._check(self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle, ctypes.byref(millijoules)))
        return millijoules.value / 1e3

    def _check(self, code: int) -> None:
        if code != 0:
            raise OSError(f"NVML error {code}")


class Rapl(EnergyMeter):
    """The processor packages' counters, which Linux keeps in sysfs and usually lets only root read."""

    def __init__(self, root: Path = RAPL) -> None:
        """Raise OSError where there is no counter or it may not be read."""
        self.counters = sorted(root.glob("intel-rapl:?/energy_uj"))  # AMD's too; not their parts, `intel-rapl:0:0`
        if not self.counters:
            raise OSError(f"no energy counter in {root}")
        self.ranges = [int(counter.with_name("max_energy_range_uj").read_text()) for counter in self.counters]
        self.last = self._read()
        self.total = 0.0

    def joules(self) -> float:
        now = self._read()
        for before, after, size in zip(self.last, now, self.ranges, strict=True):
            self.total += (after - before) % size / 1e6  # a counter that overflows begins again at zero
        self.last = now
        return self.total

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self.counters]


def meter_for(device: torch.device) -> EnergyMeter | None:
    """Return the meter of a device; None where the machine reports nothing."""
    try:
        return Nvml(device) if device.type == "cuda" else Rapl()
    except OSError:
        return None
