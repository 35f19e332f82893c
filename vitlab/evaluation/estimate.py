"""A fraction that was measured on a sample of images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A fraction with its 95 % interval, written in %."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"
