"""A run directory has one writer. The lock is tried with real processes, since it is the kernel that grants it."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vitlab.atomic_files import write_text
from vitlab.commands.dispatch import run
from vitlab.runs.directory import RunDirectory
from vitlab.runs.lock import run_lock

# Holds the lock until its input ends.
HOLD = """
import os, sys, time
from pathlib import Path
from vitlab.runs import lock
with lock.run_lock(Path(sys.argv[1])):
    worker = os.fork() if sys.argv[2:] else -1
    if worker == 0:
        time.sleep(60)
    print(worker, flush=True)
    sys.stdin.read()
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a process which holds `run`; all of them are killed in the end."""
    processes: list[subprocess.Popen[str]] = []

    def start(*options: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), *options]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def _said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_writer_is_told_who_is_at_work(start: Start, tmp_path: Path) -> None:
    process = start()
    assert _said(process)
    with pytest.raises(ValueError, match="is being written by") as refused, run_lock(tmp_path / "run"):
        pass
    lines = str(refused.value).splitlines()
    assert len(lines) <= 2
    assert str(tmp_path / "run") in lines[0]
    assert f"process {process.pid} on {os.uname().nodename} since 20" in lines[0]
    assert "python -m vitlab" in lines[0]
    assert "--run.name" in lines[1]
    process.communicate()  # it ends by itself
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run/.lock").is_file()


def test_an_orphaned_child_does_not_keep_the_lock(start: Start, tmp_path: Path) -> None:
    """A data-loader worker is a fork that notices only after seconds that its parent is gone."""
    process = start("with a worker")
    orphan = int(_said(process))
    try:
        process.kill()
        process.wait()
        os.kill(orphan, 0)  # it lives
        with run_lock(tmp_path / "run"):
            assert (tmp_path / "run/.lock").is_file()
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_asking_who_writes_does_not_end_the_own_lock(start: Start, tmp_path: Path) -> None:
    with run_lock(tmp_path / "run"):
        assert RunDirectory(tmp_path / "run").writer == f"{tmp_path / 'run'} is being written by this process"
        process = start()
        process.wait()
        assert process.returncode == 1
    assert RunDirectory(tmp_path / "run").writer is None


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with run_lock(tmp_path / "run"):
        (tmp_path / "run/metrics.csv").touch()
    assert f"{tmp_path / 'run'} has no file locks" in caplog.text
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.csv"]


def test_a_second_fit_of_the_same_run_is_refused(
    tiny: Callable[..., Path], tmp_path: Path, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that shall overwrite the run."""
    path = tiny()
    Path("runs/tiny/seed-0").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "runs/tiny/seed-0")
    process = start()
    assert _said(process)
    for overwrite in ("false", "true"):
        assert run("fit", ["--config", str(path), "--run.overwrite", overwrite]) == 2
        assert f"is being written by process {process.pid}" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "run").iterdir()] == [".lock"]
    process.communicate()
    assert run("fit", ["--config", str(path)]) == 0
    assert not (tmp_path / "run/.lock").exists()


def test_a_start_that_failed_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such data"), run_lock(tmp_path / "runs/name/seed-0"):
        raise ValueError("no such data")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(OSError, match=r"No space left on device: .*report\.html"):
        write_text(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "old")]
