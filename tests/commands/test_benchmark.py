"""`vitlab benchmark` measures an experiment in turns with other processes."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitlab.commands.dispatch import run
from vitlab.evaluation.cost import READY, Cost, step
from vitlab.experiment.parser import Settings


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


def test_only_the_objective_on_noise_is_built_and_the_file_is_written_before_anything_is_said(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The experiment's own would ask for its pretrained weights, which noise has no use for."""
    built, build = [], Settings.build

    def recorded(self: Settings, section: str, *args: Any, **kwargs: Any) -> Any:
        built.append(section)
        return build(self, section, *args, **kwargs)

    monkeypatch.setattr(Settings, "build", recorded)
    monkeypatch.setattr(step, "SECONDS", 0.01)
    monkeypatch.setattr("vitlab.evaluation.cost.doubts", lambda costs: [*costs, str(Path("cost.json").is_file())])
    assert run("benchmark", ["--config", str(tiny()), "--json", "cost.json"]) == 0
    assert built.count("model") == 1
    assert capsys.readouterr().out.splitlines()[-2:] == ["VisionTransformer", "True"]


def test_a_run_is_measured_without_its_folder_of_images(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data.json has the names of the classes; an experiment's file alone has not."""
    monkeypatch.setattr(step, "SECONDS", 0.01)
    for i in range(12):
        folder = Path("photos", "cat" if i % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
    init_args = {"root": "photos", "image_size": 8, "batch_size": 4}
    path = tiny({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": init_args}, "run": {"test": False}})
    assert run("fit", ["--config", str(path)]) == 0
    Path("photos").rename("moved")
    assert run("benchmark", ["--config", str(path)]) == 2
    assert "photos" in capsys.readouterr().err
    assert run("benchmark", ["--config", "runs/tiny/seed-0"]) == 0
