"""vitlab: which of ViT, DeiT, Swin and Swin v2, and which training recipe, is best on my images, and how sure am I?

The names below, like those of the rooms, are imported when first used, so that `python -m vitlab --help` answers before
torch is loaded.
"""

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

BEGAN = time.perf_counter()  # as near to the start of the command as our own code comes

if TYPE_CHECKING:
    from vitlab.commands.quiet import quiet as quiet
    from vitlab.deployment.load import load as load
    from vitlab.experiment.experiment import Experiment as Experiment
    from vitlab.studies.front import Study as Study

__all__ = ["Experiment", "Study", "load", "quiet"]
_PLACES = {
    "commands.quiet": ["quiet"],
    "deployment.load": ["load"],
    "experiment.experiment": ["Experiment"],
    "studies.front": ["Study"],
}


def exported(package: str, places: Mapping[str, Sequence[str]], name: str) -> Any:
    """Import what `package` exports as `name` from its place, the module that defines it."""
    for module, names in places.items():
        if name in names:
            return getattr(import_module(f"{package}.{module}"), name)
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def __getattr__(name: str) -> Any:
    return exported("vitlab", _PLACES, name)
