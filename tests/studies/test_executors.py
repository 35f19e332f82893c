"""Runs through executors: a pool, Dask, Ray, and submitit on this machine; tests/slurm tries a real SLURM."""

import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest
import submitit
from fake_study import FAKE_PROGRAM, variant

from tests.conftest import edges
from vitlab.signals import UNWRITTEN
from vitlab.studies.compare import compare
from vitlab.studies.file.registration import Outcome
from vitlab.studies.file.runs import Run, plan
from vitlab.studies.file.study import read_study
from vitlab.studies.training import executors
from vitlab.studies.training import run_all as run_all_module
from vitlab.studies.training.executors import Fleet, RunTask, Submitit, _Requeued, new_executor, slurm
from vitlab.studies.training.run_all import Display, run_all

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


def on_this_machine(folder: Path) -> submitit.LocalExecutor:
    executor = submitit.LocalExecutor(folder / "slurm")
    executor.update_parameters(timeout_min=2)
    return executor


@contextmanager
def cluster(name: str) -> Iterator[Executor]:
    """Two worker processes of this machine, or two threads."""
    settings = {"dask": ["n_workers=2", "threads_per_worker=1", "dashboard_address=null"], "ray": []}
    executor = new_executor(name, settings.get(name, ["max_workers=2"]))
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)
        if name == "dask":
            executor._client.cluster.close()  # type: ignore[attr-defined]
            executor._client.close()  # type: ignore[attr-defined]
        if name == "ray":
            import ray

            ray.shutdown()


def train(runs: list[Run], executor: Executor, program: tuple[str, ...] = FAKE_PROGRAM) -> tuple[list[Outcome], str]:
    printed = io.StringIO()
    return run_all(runs, program, executor, Display(printed, runs), overwrite=False), printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["concurrent.futures.ThreadPoolExecutor", "dask", "ray"])
def test_a_study_trains_on_any_executor(name: str, write_study: Write, tmp_path: Path) -> None:
    """Every run once, with the bytes that this machine's own processes write, and failures by their exit status."""
    if name in ("dask", "ray"):
        pytest.importorskip({"dask": "distributed"}.get(name, name))
    runs = plan(read_study(write_study(variants=PAIR, seeds=[1, 2])), tmp_path)
    with cluster(name) as executor:
        outcomes, printed = train(runs, executor)
        assert [outcome.failure for outcome in outcomes] == [None] * 4
        assert printed.count("  done\n") == 4
        assert "A, seed 2  epoch 4/4" in printed
        assert "4 of 4 runs are already finished" in train(runs, executor)[1]
        failing = plan(read_study(write_study(name="failing", variants=PAIR, seeds=[1])), tmp_path)
        outcomes, _ = train(failing, executor, ("sh", "-c", "echo no room; exit 3"))
        assert [outcome.failure for outcome in outcomes] == ["exit status 3: no room"] * 2
    reference = plan(read_study(write_study(variants=PAIR, seeds=[1, 2])), tmp_path / "reference")
    train(reference, ThreadPoolExecutor(1))
    for run, other in zip(runs, reference, strict=True):
        for file in ("metrics.csv", "predictions.parquet"):
            assert (run.directory / file).read_bytes() == (other.directory / file).read_bytes()


class Machines(ThreadPoolExecutor):
    """A kind of machine that has this version of torch."""

    def __init__(self, torch: str) -> None:
        super().__init__(2)
        self.torch = torch

    def submit(self, task: RunTask) -> object:  # type: ignore[override]
        return super().submit(lambda: task.start({"FAKE_TORCH": self.torch}).wait())

    def shutdown(self, wait: bool = True) -> None:  # type: ignore[override]  # as Dask's
        super().shutdown(wait)


@pytest.mark.slow(edge=True)
def test_of_several_classes_of_machines_each_trains_all_variants_of_its_seeds(
    write_study: Write, tmp_path: Path, no_figures: None
) -> None:
    study = write_study(variants=PAIR, seeds=[3, 5, 7, 9, 11])
    old, new = partial(Machines, "2.14"), partial(Machines, "2.15")
    report = compare(study, tmp_path, program=FAKE_PROGRAM, executors=[old, new, old])
    text = report.with_suffix(".md").read_text()
    kinds: dict[str, set[str]] = {}
    for path in tmp_path.rglob("environment.json"):
        kinds.setdefault(json.loads(path.read_text())["torch"], set()).add(path.parent.name)
    assert kinds == {"2.14": {"seed-3", "seed-7", "seed-9"}, "2.15": {"seed-5", "seed-11"}}
    assert "Variants are compared within kinds of machines." in text
    known = "The runs come from 2 kinds of machines or places (torch 2.14, torch 2.15); what each adds"
    assert text.count(known) == 2  # the second for a paper


def test_a_seed_comes_back_to_the_machines_where_it_began() -> None:
    machines = [Machines(name) for name in ("a", "b")]
    fleet = Fleet(machines, [4, 2])
    tasks = [RunTask(["true"], Path("log"), seed) for seed in (2, 4, 8, 2)]  # 8: of a study that grew
    assert [fleet._executor(task.seed) for task in tasks] == [machines[i] for i in (1, 0, 0, 1)]


# Stands for `fit` on a machine without room, the first two times.
FULL = f"""
import runpy, sys, pathlib
starts = pathlib.Path("starts")
starts.open("a").write(".")
if len(starts.read_text()) <= 2:
    sys.exit({UNWRITTEN})
sys.argv = {[*FAKE_PROGRAM[1:]]} + sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(("tries", "finishes"), [(4, True), *edges((2, False))])
def test_a_run_whose_machine_has_no_room_is_submitted_again(
    tries: int, finishes: bool, write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "FULL_SECONDS", 0.0)
    monkeypatch.setattr(run_all_module, "TRIES", tries)
    (tmp_path / "full.py").write_text(FULL)
    run, *_ = plan(read_study(write_study(variants=PAIR, seeds=[1])), tmp_path / "runs")
    with ThreadPoolExecutor(1) as threads:
        ((_, failure),), printed = train([run], Fleet([threads], [1]), (sys.executable, str(tmp_path / "full.py")))
    assert printed.count("could not write the results; it is submitted again") == (2 if finishes else 1)
    assert (failure is None) == finishes
    if not finishes:
        assert failure is not None
        assert failure.startswith(f"exit status {UNWRITTEN}")


def test_a_run_that_its_executor_loses_is_shown_by_the_reason(write_study: Write, tmp_path: Path) -> None:
    class Losing(ThreadPoolExecutor):
        def submit(self, task: RunTask) -> object:  # type: ignore[override]
            return super().submit(lambda: [].pop())

    runs = plan(read_study(write_study(variants=PAIR, seeds=[1])), tmp_path)
    with Losing(1) as executor:
        outcomes, _ = train(runs, executor)
    assert [outcome.failure for outcome in outcomes] == ["IndexError: pop from empty list"] * 2


@pytest.mark.slow
def test_runs_become_jobs_and_are_not_submitted_again(
    write_study: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = plan(read_study(write_study(variants=PAIR, seeds=[1])), tmp_path)
    outcomes, _ = train(runs, Submitit(on_this_machine(tmp_path)))
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert all((run.directory / "summary.json").is_file() for run in runs)
    assert "2 runs submitted" in capsys.readouterr().out
    assert "2 of 2 runs are already finished" in train(runs, Submitit(on_this_machine(tmp_path)))[1]
    assert "submitted" not in capsys.readouterr().out


def fake_slurm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file with the jobs that `squeue` lists; `sbatch` submits job 7."""
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr("vitlab.studies.training.executors.SLURM_SECONDS", 0.0)
    queue = folder / "queue"
    for tool, script in {"sbatch": "echo Submitted batch job 7", "srun": "", "squeue": f"cat {queue}"}.items():
        (folder / tool).write_text(f"#!/bin/sh\n{script}\n")
        (folder / tool).chmod(0o755)
    return queue


def test_a_queued_run_is_waited_for_by_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = fake_slurm(tmp_path, monkeypatch)
    queue.write_text("7\n")
    task = RunTask(["true"], tmp_path / "log", 1)
    first, second, third, fourth = (slurm(str(tmp_path / "slurm")) for _ in range(4))
    with first.batch():
        submitted = first.submit(task)
    assert not submitted.done()
    assert not submitted.cancel()
    with second.batch():
        known = second.submit(task)
    assert known.of_submitit.job_id == "7"
    assert second.submit(RunTask(["true"], tmp_path / "log", 1, ["--run.overwrite", "true"])) is not known
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")  # SLURM's daemon is being restarted
    with fourth.batch():  # which has never been answered
        assert fourth.submit(task).of_submitit.job_id == "7"
    assert not known.done()
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ncat {queue}\n")
    queue.write_text("8\n")  # cancelled
    assert known.done()
    with third.batch():
        assert third.submit(task) is not known
    assert len(list((tmp_path / "slurm").glob("*submitted.pkl"))) == 1  # under the number of the first, 7


@pytest.mark.slow
def test_a_job_that_is_taken_away_stops_its_run_and_comes_back(tmp_path: Path) -> None:
    (tmp_path / "patient.py").write_text(PATIENT)
    training = RunTask([sys.executable, str(tmp_path / "patient.py"), str(tmp_path)], tmp_path / "log", 1, ["anew"])
    job = on_this_machine(tmp_path).submit(_Requeued(training))
    deadline = time.monotonic() + 60
    while not (tmp_path / "starts").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    (task,) = psutil.Process(int(job.job_id)).children()
    task.send_signal(submitit.core.job_environment.JobEnvironment._usr_sig())  # as SLURM, to all of the task
    assert job.result() == 0
    # What replaces an earlier run is passed once: the second start continues the first.
    assert [line for line in (tmp_path / "log").read_text().split("\n") if line.startswith("started")] == [
        "started anew",
        "started",
    ]


def test_slurm_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"--executor slurm: Could not detect .srun., are you indeed on a"):
        new_executor("slurm", [])
    fake_slurm(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"time must be an integer \(minutes\), got 04:00:00"):
        new_executor("slurm", ["time=04:00:00"])
    with pytest.raises(ValueError, match="partitoin"):
        new_executor("slurm", ["partitoin=gpu"])
    executor = slurm(partition="gpu", time=240)
    assert executor.executor.parameters["time"] == 240


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slurm", "gpu"], "--executor slurm gpu: expected KEY=VALUE"),
        (["slrum"], "--executor slrum: .*Give slurm, dask, ray, or an import path"),
        (["nothing.of.that"], "--executor nothing.of.that: No module named 'nothing'"),
        (["concurrent.futures.Nothing"], "has no attribute 'Nothing'"),
        (["concurrent.futures.ThreadPoolExecutor", "workers=2"], "unexpected keyword argument 'workers'"),
    ],
)
def test_an_executor_that_does_not_exist_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        new_executor(words[0], words[1:])


@pytest.mark.parametrize("name", ["slurm", "dask"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitlab.experiment.errors.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=rf"pip install 'vitlab\[{name}\]'"):
        new_executor(name, [])
