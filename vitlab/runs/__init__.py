<<<<<<< HEAD
"""What is kept of a run: records, checkpoints, metrics, pictures; and how it is read, and continued to the bit."""

from vitlab.runs.directory import RunDirectory as RunDirectory
=======
"""What is kept of a run: records, checkpoints, metrics, pictures; and how it is continued to the bit."""

from typing import Any

from vitlab import exported

_PLACES = {
    "image_logging": ["some_images"],
}
__all__ = [name for names in _PLACES.values() for name in names]


def __getattr__(name: str) -> Any:
    return exported("vitlab.runs", _PLACES, name)
>>>>>>> shapes
