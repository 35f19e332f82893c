"""`vitlab benchmark` trains an experiment on noise."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.noise import make_noise
from vitlab.commands.dispatch import run


@pytest.mark.parametrize("objective", ["MultiLabel", "Regression"])
def test_labels_of_noise_are_those_that_the_objective_takes(
    objective: str, tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny({"model": {"class_path": f"vitlab.objectives.{objective}"}})
    assert run("benchmark", ["--config", str(path)]) == 0
    printed = capsys.readouterr().out
    for name in ("training images/s", "waiting for data", "TFLOP/s", "peak memory", "FLOPs per image", "parameters"):
        assert name in printed


def test_a_run_is_measured_without_its_folder_of_images(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data.json has the names of the classes; an experiment's file alone has not."""
    make_noise(Path(), {"photos": 6})
    init_args = {"root": "photos", "image_size": 8, "batch_size": 4}
    path = tiny({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": init_args}, "run": {"test": False}})
    assert run("fit", ["--config", str(path)]) == 0
    Path("photos").rename("moved")
    assert run("benchmark", ["--config", str(path)]) == 2
    assert "photos" in capsys.readouterr().err
    assert run("benchmark", ["--config", "runs/tiny/seed-0"]) == 0
