"""vitlab: which of ViT, DeiT, Swin and Swin v2, trained how, serves my images best, and how sure am I?

`Experiment` and `load` are imported when first used, so that `python -m vitlab --help` answers before torch is loaded.
"""

import time
from typing import TYPE_CHECKING, Any

BEGAN = time.perf_counter()  # as near to the start of the command as our own code comes

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment

__all__ = ["Experiment"]


def __getattr__(name: str) -> Any:
    if name == "Experiment":
        from vitlab.experiment.experiment import Experiment

        return Experiment
    raise AttributeError(f"module 'vitlab' has no attribute {name!r}")
