"""What is kept of a run: records, checkpoints, metrics; and how it is read, and continued to the bit."""

from typing import Any

from vitlab import exported

_PLACES = {
    "directory": ["RunDirectory"],
}
__all__ = [name for names in _PLACES.values() for name in names]


def __getattr__(name: str) -> Any:
    return exported("vitlab.runs", _PLACES, name)
