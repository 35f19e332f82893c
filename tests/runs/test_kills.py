"""A run that is killed (SIGKILL) at any moment and started again is the undisturbed run, to the bit.

The oracle is the run that was left alone. Runs are forks of the process that tests, which has imported everything.
"""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import LightningModule

from tests.kills import MOMENTS, OBJECTIVES, continued_after_a_kill, experiments, forked, last_words
from vitlab import objectives
from vitlab.runs.exactness import disagreements

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are tried on forks of this process")

experiment = experiments  # the fixture


@pytest.mark.parametrize("name", ["supervised", "dino"])
def test_a_kill_in_an_epoch_changes_nothing(name: str, experiment: Callable[..., Path]) -> None:
    """The quick one: drop path, mixup and EMA; crops, a moving teacher and a center."""
    path = experiment(name)
    path.rename("tiny.yaml")
    weights = continued_after_a_kill(["--config", "tiny.yaml", "--data.num_workers", "0"])["state_dict"]
    assert name != "dino" or float(weights["center"].abs().max()) > 0  # what is equal is no center of zeros


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_kills_change_nothing(name: str, experiment: Callable[..., Path]) -> None:
    """Nine kills of one run, at every kind of moment, with 0, 2 and 4 workers in turn."""
    rng = random.Random(name)
    path = experiment(name, accumulate=2 if name in ("supervised", "dino") else 1)
    assert forked(["--config", str(path), "--run.root", "whole"]) == 0, last_words()
    kind = getattr(objectives, OBJECTIVES[name]["model"]["class_path"].rpartition(".")[2])
    absent = [word for word in ("validation", "test") if _is_absent(kind, f"{word}_step")]
    moments = [moment for moment in MOMENTS if not any(word in moment for word in absent)]
    killed = []
    for i, moment in enumerate(moments):
        arguments = ["--config", str(path), "--data.num_workers", str((0, 2, 4)[i % 3])]
        status = forked(arguments, lambda m=moment: MOMENTS[m](rng.randint(1, 3)))  # type: ignore[misc]
        killed += [moment] if status == -signal.SIGKILL else []
        assert status in (0, -signal.SIGKILL), last_words()
    assert forked(["--config", str(path)]) == 0, last_words()
    assert disagreements(Path("whole", name, "seed-0"), Path("runs", name, "seed-0")) == []
    assert not list(Path("runs").rglob("*.new"))
    assert len(killed) >= len(moments) - 2, killed  # the last may find the run finished


def _is_absent(kind: type[LightningModule], step: str) -> bool:
    return getattr(kind, step) is getattr(LightningModule, step)
