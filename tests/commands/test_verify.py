"""verify repeats a run, and tells one that is equal from one that is not."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.noise import make_noise
from vitlab.commands import runs
from vitlab.commands.dispatch import run
from vitlab.experiment.experiment import Experiment

RUN = Path("runs/tiny/seed-0")


def copy_of(directory: Path) -> Path:
    """Return a repetition in which the last weights have other bits."""
    other = directory.with_name("copy")
    shutil.copytree(directory, other)
    state = torch.load(other / "checkpoints/last.ckpt", weights_only=True)
    name = next(iter(state["state_dict"]))
    state["state_dict"][name] += 1e-7
    torch.save(state, other / "checkpoints/last.ckpt")
    return other


@pytest.mark.slow
def test_a_run_repeats_to_the_bit_here(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny({"trainer": {"limit_train_batches": 3}})
    # A process of its own: what checks types in this one draws from Python's generator.
    subprocess.run([sys.executable, "-m", "vitlab", "fit", "--config", str(path)], check=True)
    assert run("verify", [str(RUN)]) == 0
    assert "Equal to the bit: weights" in capsys.readouterr().out


def test_other_bits_are_different_and_their_environments_are_compared(finished: Path) -> None:
    other = copy_of(finished)
    environment = json.loads((other / "environment.json").read_text())
    environment["torch"] = "1.0"
    (other / "environment.json").write_text(json.dumps(environment))
    said = runs.conclusion(finished, other)
    assert said[0] == "Different: the metrics are equal."
    assert said[1].startswith("First difference: state_dict.")
    assert "torch was" in said[2]
    summary = json.loads((other / "summary.json").read_text())
    summary["metrics"]["test/top1"] += 0.5
    (other / "summary.json").write_text(json.dumps(summary))
    assert runs.conclusion(finished, other)[0].startswith("Different: test/top1 ")
    assert runs.conclusion(finished, finished) == []


@pytest.mark.slow
def test_a_run_that_fails_is_quoted(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text())
    config["model"]["init_args"]["backbone"]["init_args"]["num_heads"] = 3  # no divisor of 16
    (finished / "config.yaml").write_text(yaml.safe_dump(config))
    assert run("verify", [str(finished)]) == 2
    assert f"{finished} cannot be repeated:" in capsys.readouterr().err


def test_other_images_are_the_cause_before_anything_is_trained(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.subprocess, "Popen", lambda *_, **__: pytest.fail("trains"))
    facts = json.loads((finished / "data.json").read_text())
    facts["splits"]["train"] = {"images": 2934, "digest": "of other images"}
    (finished / "data.json").write_text(json.dumps(facts))
    capsys.readouterr()
    assert run("verify", [str(finished)]) == 2
    said = capsys.readouterr().err
    assert "cannot be repeated: its images have changed (train: 2,934 images then" in said
    assert said.count("error: ") == 1


@pytest.mark.slow(edge=True)
def test_images_of_a_relative_root_are_found_from_another_folder(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_noise(tmp_path, {"photos": 6})
    init_args = {"root": "photos", "image_size": 8, "batch_size": 4}
    path = tiny({"data": {"class_path": "vitlab.data.ImageFolder", "init_args": init_args}, "run": {"test": False}})
    assert run("fit", ["--config", str(path)]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = runs.repetition(tmp_path / RUN, "root")
    assert found["data"]["init_args"]["root"] == str(tmp_path / "photos")
    shutil.copytree(tmp_path / "photos", "photos")
    Path("photos/a/new.png").write_bytes(Path("photos/a/001.png").read_bytes())
    with pytest.raises(ValueError, match="its images have changed"):
        runs.repetition(tmp_path / RUN, "root")
    assert run("validate", ["--config", str(tmp_path / RUN)]) == 0
    assert "was trained on other images than these (" in capsys.readouterr().err


def test_what_is_no_finished_run_is_refused(tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", ["runs/nothing"]) == 2
    assert "runs/nothing is not a finished run: it has no summary.json" in capsys.readouterr().err


def test_a_run_without_checkpoint_is_refused_before_it_is_repeated(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("fit", ["--config", str(tiny({"trainer": {"max_epochs": 0}}))]) == 0
    monkeypatch.setattr(runs, "repetition", lambda *_: pytest.fail("repeated"))
    assert run("verify", [str(RUN)]) == 2
    said = capsys.readouterr().err
    assert f"{RUN} has no checkpoints/last.ckpt to compare" in said
    assert "never written: by 0 epochs, a run.probe other than linear" in said


def test_a_repetition_does_not_pause(tiny: Callable[..., Path]) -> None:
    """A run that paused keeps the setting."""
    experiment = Experiment(tiny({"run": {"name": "group/x", "checkpoint": {"pause_after": 1}}}))
    directory = Path("runs/group/x/seed-0")
    directory.mkdir(parents=True)
    (directory / "config.yaml").write_text(yaml.safe_dump(experiment.config))
    again = Experiment(runs.repetition(directory, "root"))
    assert again.run.checkpoint.pause_after is None
    assert again.directory == Path("root/repeated/seed-0")
