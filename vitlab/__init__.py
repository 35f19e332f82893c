"""vitlab: which of ViT, DeiT, Swin and Swin v2, trained how, serves my images best, and how sure am I?

`Experiment` and `load` are imported when first used, so that `python -m vitlab --help` answers before torch is loaded.
"""

import time
from importlib import import_module
from typing import TYPE_CHECKING, Any

BEGAN = time.perf_counter()  # as near to the start of the command as our own code comes

if TYPE_CHECKING:
    from vitlab.deployment.load import load
    from vitlab.experiment.experiment import Experiment

__all__ = ["Experiment", "load"]


def __getattr__(name: str) -> Any:
    modules = {"Experiment": "vitlab.experiment.experiment", "load": "vitlab.deployment.load"}
    if name not in modules:
        raise AttributeError(f"module 'vitlab' has no attribute {name!r}")
    return getattr(import_module(modules[name]), name)
