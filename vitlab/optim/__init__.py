"""Optimizers and learning-rate schedules as settings for YAML, and the parameter groups that they act on."""

from vitlab.optim.groups import describe_groups, parameter_groups
from vitlab.optim.muon import Muon
from vitlab.optim.schedules import Schedule, WarmupCosine, WarmupStableDecay, WarmupSteps, cosine, unreached
from vitlab.optim.settings import SGD, AdamW, AnyOptimizer, Optimizer

__all__ = [
    "SGD",
    "AdamW",
    "AnyOptimizer",
    "Muon",
    "Optimizer",
    "Schedule",
    "WarmupCosine",
    "WarmupStableDecay",
    "WarmupSteps",
    "cosine",
    "describe_groups",
    "parameter_groups",
    "unreached",
]
