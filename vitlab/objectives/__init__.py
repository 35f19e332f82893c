"""Training objectives, one a file; each is a `class_path` for `model`."""

from vitlab.objectives.classification import Classification
from vitlab.objectives.objective import Objective
from vitlab.objectives.supervised import Supervised

__all__ = ["Classification", "Objective", "Supervised"]
