"""Runs as a SLURM array, on submitit's executor for this machine; tests/slurm tries a real SLURM."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import submitit
from fake_study import FAKE_PROGRAM, variant

from vitlab.studies.compare import compare
from vitlab.studies.file.runs import plan
from vitlab.studies.file.study import read_study
from vitlab.studies.training.slurm import run_array, slurm
from vitlab.studies.training.task import RunTask

Write = Callable[..., Path]
PAIR = {"A": variant(0.9), "B": variant(0.8)}

# Stands for `fit`: stops when asked, with the status that says so, and finishes when started again.
PATIENT = """
import signal, sys, time, pathlib
folder = pathlib.Path(sys.argv[1])
signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75))
print("started", *sys.argv[2:], flush=True)
(folder / "starts").open("a").write(".")
while len((folder / "starts").read_text()) == 1:
    time.sleep(0.05)
"""


def local(folder: Path) -> submitit.LocalExecutor:
    executor = submitit.LocalExecutor(folder / "slurm")
    executor.update_parameters(timeout_min=2)
    return executor


@pytest.mark.slow
def test_runs_become_jobs_and_are_not_submitted_again(write_study: Write, tmp_path: Path) -> None:
    study = write_study(variants=PAIR, seeds=[1])
    runs = plan(read_study(study), tmp_path)
    notes: list[str] = []
    outcomes = run_array(runs, FAKE_PROGRAM, local(tmp_path), False, notes.append, poll_seconds=0.1)
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert all((run.directory / "summary.json").is_file() for run in runs)
    assert notes[0].strip() == "0 runs finished, 2 submitted, 0 already queued."
    run_array(runs, FAKE_PROGRAM, local(tmp_path), False, notes.append, poll_seconds=0.1)
    assert notes[-2].strip() == "2 runs finished, 0 submitted, 0 already queued."


@pytest.mark.slow
def test_a_run_that_fails_is_told_with_its_last_words(write_study: Write, tmp_path: Path) -> None:
    runs = plan(read_study(write_study(variants=PAIR, seeds=[1])), tmp_path)
    program = ("sh", "-c", "echo no room; exit 3")
    outcomes = run_array(runs, program, local(tmp_path), False, lambda line: None, poll_seconds=0.1)
    assert [outcome.failure for outcome in outcomes] == ["exit status 3: no room"] * 2


@pytest.mark.slow
def test_a_job_that_is_taken_away_stops_its_run_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(PATIENT)
    training = RunTask([sys.executable, str(tmp_path / "patient.py"), str(tmp_path)], str(tmp_path / "log"), ["anew"])
    job = local(tmp_path).submit(training)
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    (task,) = psutil.Process(int(job.job_id)).children()
    task.send_signal(submitit.core.job_environment.JobEnvironment._usr_sig())  # as SLURM, to all of the task
    assert job.result() == 0
    # What replaces an earlier run is passed once: the second start continues the first.
    assert (tmp_path / "log").read_text() == "started anew\nstarted\n"


@pytest.mark.slow
def test_a_study_is_reported_when_its_array_is_done(
    write_study: Write, tmp_path: Path, no_figures: None, capsys: pytest.CaptureFixture[str]
) -> None:
    study = write_study(variants=PAIR, seeds=[1])
    report = compare(study, tmp_path / "runs", program=FAKE_PROGRAM, cluster=lambda _, folder: local(folder))
    assert report.is_file()
    assert "0 runs finished, 2 submitted" in capsys.readouterr().out


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="sbatch not found"):
        slurm("Study", tmp_path, [])
    for tool in ("sbatch", "srun", "squeue"):
        (tmp_path / tool).write_text("#!/bin/sh")
        (tmp_path / tool).chmod(0o755)
    with pytest.raises(ValueError, match="--slurm gpu: expected KEY=VALUE"):
        slurm("Study", tmp_path, ["gpu"])
    with pytest.raises(ValueError, match="partitoin"):
        slurm("Study", tmp_path, ["partitoin=gpu"])
    assert slurm("Study", tmp_path, ["partition=gpu", "time=240"]).parameters["time"] == 240
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=r"pip install 'vitlab\[slurm\]'"):
        slurm("Study", tmp_path, [])
