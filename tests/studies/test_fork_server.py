"""Runs as forks of a process that has imported what they need, by real processes."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from fake_study import wait_for

from tests.conftest import TINY
from vitlab.config import merge
from vitlab.runs.exactness import disagreements
from vitlab.runs.lock import Busy, check_idle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="runs are forked on Linux alone")

# Starts one run, which does what its argument says, and waits for it.
STARTER = """
import atexit, inspect, os, sys, time
from pathlib import Path
Path("mine.py").write_text("def code(): return 'as imported'\\n")
import mine
from vitlab.studies.training.executors import ForkServer

def main(command, arguments):
    print(*sys.argv[1:], os.getpgrp() == os.getpid() != os.getppid(), os.environ["SLOT"], sys.stdin.read() == "")
    print(inspect.getsource(mine.code).strip())
    atexit.register(print, "ended as a Python ends")
    if command == "sleep":
        time.sleep(600)
    return 3

print("before the fork")
server = ForkServer(main)
Path("mine.py").write_text("# changed while the study runs\\n\\n\\ndef other(): pass\\n")
with Path("log").open("ab") as log:
    run = server.start(sys.argv[1:], {"SLOT": "one"}, log.fileno())
print(run.pid, flush=True)
print(run.wait())
server.close()
"""


@pytest.fixture
def starter() -> list[str]:
    return [sys.executable, "-c", STARTER]


def test_a_forked_run_is_as_a_process_of_its_own(starter: list[str], tmp_path: Path) -> None:
    done = subprocess.run([*starter, "fit", "x.yaml"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "before the fork"
    assert done.stdout.splitlines()[2:] == ["3"]  # its exit status
    assert (
        tmp_path / "log"
    ).read_text() == "fit x.yaml True one True\ndef code(): return 'as imported'\nended as a Python ends\n"


def test_a_killed_run_has_the_status_of_its_signal_and_one_goes_on_without_the_study(
    starter: list[str], tmp_path: Path
) -> None:
    runs = []
    for kill_the_run in (True, False):
        with subprocess.Popen([*starter, "sleep"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as study:
            assert study.stdout is not None
            study.stdout.readline()
            runs.append(psutil.Process(int(study.stdout.readline())))
            wait_for(lambda: "sleep" in (tmp_path / "log").read_text())
            if kill_the_run:
                runs[0].kill()
                assert study.stdout.readline() == "-9\n"
            else:
                server = psutil.Process(study.pid).children()[0]
                study.kill()
                server.wait(10)
                assert runs[1].is_running()
                runs[1].kill()
    psutil.wait_procs(runs, 10)


@pytest.mark.slow
def test_a_study_that_was_stopped_and_killed_ends_with_the_runs_of_a_fit(tmp_path: Path) -> None:
    """SIGTERM ends the runs, which keep their state; SIGKILL leaves them, and the next start waits for them."""
    training = {"trainer": {"max_epochs": 20}, "run": {"checkpoint": {"every_n_steps": 5, "max_time_share": 1.0}}}
    base = merge(TINY, training)
    variants = {"A": {}, "B": {"model": {"init_args": {"label_smoothing": 0.1}}}}
    study = {"name": "s", "question": "?", "seeds": [1], "jobs": 2, "variants": variants}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({**study, "base": "base.yaml"}))
    command = [sys.executable, "-m", "vitlab"]
    directories = [tmp_path / "runs/s" / name / "seed-1" for name in ("a", "b")]

    def start() -> "subprocess.Popen[str]":
        words = [*command, "compare", "--config", "study.yaml"]
        return subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def trains(directory: Path) -> bool:
        return (directory / "checkpoints" / "last.ckpt").is_file() and is_busy(directory)

    with start() as study:
        wait_for(lambda: any(trains(each) for each in directories))
        study.send_signal(signal.SIGTERM)
        assert "The same command continues the runs." in study.communicate(timeout=120)[0]
    assert study.returncode == 75
    assert not any(is_busy(each) for each in directories)
    assert not all((each / "summary.json").is_file() for each in directories)

    with start() as study:
        wait_for(lambda: any(is_busy(each) for each in directories))
        study.kill()
        study.communicate()
    assert any(is_busy(each) for each in directories)

    with start() as study:
        printed, _ = study.communicate(timeout=300)
    assert study.returncode == 0, printed
    config = directories[0].parent / "config-seed-1.yaml"
    subprocess.run([*command, "fit", "--config", config, "--run.root", "whole"], cwd=tmp_path, check=True)
    assert disagreements(tmp_path / "whole/a/seed-1", directories[0]) == []


def is_busy(directory: Path) -> bool:
    try:
        check_idle(directory)
    except Busy:
        return True
    return False
