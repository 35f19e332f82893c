"""Training objectives, one a file; each is a `class_path` for `model`."""

from vitlab.objectives.classification import Classification
from vitlab.objectives.mae import MAE
from vitlab.objectives.objective import Objective
from vitlab.objectives.simmim import SimMIM
from vitlab.objectives.supervised import Supervised

__all__ = ["MAE", "Classification", "Objective", "SimMIM", "Supervised"]
