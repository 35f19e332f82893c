"""Compare variants of an experiment: a grid of runs, what they cost, statistics, a report."""

from typing import Any

from vitlab import exported

_PLACES = {
    "results.baselines": ["measure_baselines"],
    "front": ["Study"],
    "report.gallery": ["gallery", "interesting"],
}
__all__ = [name for names in _PLACES.values() for name in names]


def __getattr__(name: str) -> Any:
    return exported("vitlab.studies", _PLACES, name)
