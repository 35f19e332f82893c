"""What a step spends its time on: which phase a time belongs to, and that none is lost."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.measuring import WARM_UP
from benchmarks.step_profile import OTHER, PYTHON, Profile, StepProfiler, main, parts


def test_a_training_step_is_split_into_phases_and_kinds(
    tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(tiny()), "--steps", "3", "--out", str(tmp_path / "out")]
    main(arguments)
    table = (tmp_path / "out" / "step.md").read_text()
    assert capsys.readouterr().out.endswith(table)
    for row in ("forward pass and loss", "backward pass", "optimizer", "waiting for data", "matrix products", "norms"):
        assert f"| {row}" in table
    assert not (tmp_path / "runs").exists()


def test_time_belongs_to_the_innermost_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000))  # a second passes between any two looks at it
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    profiler = StepProfiler(str(tmp_path / "profile.json"), steps=2)
    for _ in range(WARM_UP + 2 * 2 + 2):
        with profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
            pass
        with profiler.profile("[Strategy]SingleDeviceStrategy.optimizer_step"):
            with profiler.profile("[Strategy]SingleDeviceStrategy.training_step"):
                pass
            with profiler.profile("[Strategy]SingleDeviceStrategy.backward"):
                pass
        with profiler.profile("[Callback]RunProgress.on_train_batch_end"):
            pass
    result = Profile(**json.loads((tmp_path / "profile.json").read_text()))
    inner = {"waiting for data", "forward pass and loss", "backward pass"}
    assert {result.phases[phase] for phase in inner} == {1000.0}
    assert result.phases["optimizer"] == 3000.0  # before, between and after the passes that it calls
    assert sum(result.phases.values()) == pytest.approx(result.step)


def test_parts_of_a_bar_add_up_to_the_step() -> None:
    assert parts(Profile(8.0, {}, {"norms": 4.0, OTHER: 2.0}), 2) == {"norms": 2000.0, OTHER: 1000.0, PYTHON: 1000.0}
    watched_slowly = parts(Profile(8.0, {}, {"norms": 12.0, OTHER: 4.0}), 2)
    assert watched_slowly == {"norms": 3000.0, OTHER: 1000.0, PYTHON: 0.0}
