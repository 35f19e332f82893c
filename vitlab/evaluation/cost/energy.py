"""Energy counters: NVML's for a GPU, RAPL's for a CPU; many machines have neither."""

import ctypes
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")


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
