"""`vitlab benchmark` measures an experiment in turns with other processes."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitlab.commands.dispatch import run
from vitlab.evaluation.cost import READY, Cost, step


@pytest.mark.parametrize("objective", ["MultiLabel", "Regression"])
def test_labels_of_noise_are_those_that_the_objective_takes(
    objective: str, tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "SECONDS", 0.01)
    path = tiny({"model": {"class_path": f"vitlab.objectives.{objective}"}})
    assert run("benchmark", ["--config", str(path)]) == 0


def test_an_experiment_is_measured_when_a_line_comes_in(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So `compare` lets the variants of a study take turns: ready once built, and after each turn."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    monkeypatch.setattr(step, "SECONDS", 0.05)
    assert run("benchmark", ["--config", str(tiny()), "--json", "cost.json", "--in_turn", "2"]) == 0
    output = capsys.readouterr().out
    assert output.count(READY) == 3
    printed = dict(line.split(maxsplit=1) for line in output.splitlines() if line[:3] in ("tra", "pro"))
    assert (printed["processes"], printed["train_quartiles"][0]) == ("2", "(")
    found = Cost.read(Path("cost.json"))
    assert found.repetitions >= 2
    assert found.processes == 2
