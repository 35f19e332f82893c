"""Evaluate a checkpoint on the validation images."""

from collections.abc import Sequence

from vitlab.commands.options import experiment_of


def run(arguments: Sequence[str]) -> int:
    """Print the metrics of a checkpoint."""
    experiment_of(arguments).validate()
    return 0
