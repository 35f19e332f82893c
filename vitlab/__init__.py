"""vitlab: which of ViT, DeiT, Swin and Swin v2, and which training recipe, is best on my images, and how sure am I?

The names below, like those of the rooms, are imported when first used, so that `python -m vitlab --help` answers before
torch is loaded.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"
BEGAN = time.perf_counter()  # as near to the start of the command as our own code comes
log = logging.getLogger("vitlab")

if TYPE_CHECKING:
    from vitlab.commands.options import quiet as quiet
    from vitlab.config import trust as trust
    from vitlab.deployment.load import load as load
    from vitlab.experiment.experiment import Experiment as Experiment
    from vitlab.studies.api import Study as Study


def exported(package: str, places: Mapping[str, Sequence[str]] | None = None) -> tuple[list[str], Callable[[str], Any]]:
    """Return `__all__` and `__getattr__` of a package that imports names on use; by default those for TYPE_CHECKING."""
    own = Path(str(sys.modules[package].__file__)).read_text(encoding="utf-8") if places is None else ""
    module_of = {name: module for module, name in re.findall(r"^    from (\S+) import (\w+) as", own, re.MULTILINE)}
    module_of |= {name: f"{package}.{module}" for module, names in (places or {}).items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(module_of[name]), name)

    return list(module_of), get


__all__, __getattr__ = exported("vitlab")
