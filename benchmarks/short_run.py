"""A few steps of an experiment for the sake of their times."""

import warnings
from collections.abc import Sequence

from vitlab.experiment.experiment import Experiment

WARM_UP = 5  # steps


def train_steps(arguments: Sequence[str], folder: str, steps: int, changes: dict[str, str]) -> Experiment:
    """Train for a number of steps; nothing is evaluated, uploaded or kept.

    Args:
        arguments: those of `vitlab fit`.
        folder: takes the run.
        changes: further keys and values.
    """
    changes = {
        "run.root": folder,
        "run.test": "false",
        "run.wandb.mode": "disabled",
        "trainer.max_steps": str(steps),
        "trainer.max_epochs": str(steps),  # at most as many as steps
        "trainer.limit_val_batches": "0",
        **changes,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is left out here, like the validation
        options = [word for key, value in changes.items() for word in (f"--{key}", value)]
        experiment = Experiment.from_arguments([*arguments, *options])
        experiment.fit()
        return experiment
