"""How many cores other programs used during a measurement, from /proc/stat (Linux)."""

import os
import sys
import time
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4, 8, 9)  # columns idle and iowait; guests' time is already in `user` (proc(5))


class OtherPrograms:
    """Counts the processor time of other programs within its `with` blocks, on the cores available to this process."""

    def __init__(self) -> None:
        self.allowed = os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
        self.cores = len(self.allowed)
        self.wall = self.others = 0.0

    @property
    def mean(self) -> float | None:
        """Cores that others used on average; None where the system does not report it."""
        return max(0.0, self.others / self.wall) if self.wall and STAT.is_file() else None

    def __enter__(self) -> None:
        self.before = self._now()

    def __exit__(self, *args: object) -> None:
        wall, others = (now - before for now, before in zip(self._now(), self.before, strict=True))
        self.wall += wall
        self.others += others

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), busy_seconds(self.allowed) - time.process_time()


def busy_seconds(cores: set[int]) -> float:
    """Return how long some cores have worked since the machine started; 0 where the system does not report it."""
    if not STAT.is_file():
        return 0.0
    ticks = 0
    for line in STAT.read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name != "cpu" and int(name[3:]) in cores:
            ticks += sum(int(value) for column, value in enumerate(values) if column not in IDLE)
    return ticks / os.sysconf("SC_CLK_TCK")
