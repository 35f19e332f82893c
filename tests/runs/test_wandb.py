"""W&B cannot hurt a run: the real package, and everything around it broken, one thing at a time."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb

from tests.conftest import EXPERIMENTS
from tests.fake_wandb import Server, wandb_server
from vitlab.commands.dispatch import run
from vitlab.runs.loggers import UnbreakableWandbLogger

Write = Callable[..., Path]
RUN = Path("runs/tiny/seed-0")
KEY = "0" * 40

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _own_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A user of W&B with a key and nothing else; no server but one that a test names."""
    wandb.teardown()  # it remembers the settings of whoever used it before in this process
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "5")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    wandb.teardown()


def fit(path: Path, *arguments: str) -> list[str]:
    """Run an experiment; return what it logged of W&B as a warning."""
    log, said = logging.getLogger("vitlab"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and "W&B" in record.getMessage():
            said.append(record.getMessage())
        return True

    log.addFilter(keep)
    try:
        assert run("fit", ["--config", str(path), *arguments]) == 0
    finally:
        log.removeFilter(keep)
    return said


def rows(directory: Path = RUN) -> pd.DataFrame:
    table = pd.read_csv(directory / "metrics.csv")
    return table.drop(columns=["images_per_second", "data_wait", "tflops"])


def whole(path: Path) -> pd.DataFrame:
    """Return the rows of the same experiment without W&B."""
    fit(path, "--run.root", "without", "--run.wandb.mode", "disabled")
    return rows(Path("without/tiny/seed-0"))


@pytest.mark.slow
def test_unreachable_it_costs_seconds_and_one_warning_and_is_kept_offline(tiny: Write) -> None:
    path = tiny()
    (said,) = fit(path)
    assert "connection refused" in said
    assert f"`wandb sync {RUN}/wandb/offline-run-*` uploads it" in said
    pd.testing.assert_frame_equal(rows(), whole(path))
    assert len(list(RUN.glob("wandb/offline-run-*/*.wandb"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("key", "words"), [(KEY, "not logged in"), ("short", "40")])
def test_a_wrong_key_costs_one_warning(tiny: Write, monkeypatch: pytest.MonkeyPatch, key: str, words: str) -> None:
    path = tiny()
    monkeypatch.setenv("WANDB_API_KEY", key)
    with wandb_server(status=401) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        (said,) = fit(path)
    assert words in said
    pd.testing.assert_frame_equal(rows(), whole(path))


@pytest.mark.slow
def test_a_server_that_goes_away_is_waited_for_no_longer_than_stated(
    tiny: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny({"trainer": {"max_epochs": 2}})
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)

        def leave(logger: UnbreakableWandbLogger) -> None:
            server.shutdown()
            server.server_close()

        _at_row(3, leave, monkeypatch)
        (said,) = fit(path)
    assert "W&B stopped working" in said
    pd.testing.assert_frame_equal(rows(), whole(path))


def _at_row(number: int, do: Callable[[UnbreakableWandbLogger], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something before a row of metrics goes to W&B."""
    log_metrics = UnbreakableWandbLogger.log_metrics
    seen = []

    def logged(self: UnbreakableWandbLogger, metrics: dict[str, float], step: int | None = None) -> None:
        seen.append(step)
        if len(seen) == number:
            do(self)
        log_metrics(self, metrics, step)

    monkeypatch.setattr(UnbreakableWandbLogger, "log_metrics", logged)


WATCH = """
import os, sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        with open(os.environ["ATTEMPTS"], "a") as file:
            print(event, *arguments[1:], file=file)
sys.addaudithook(watch)
"""


@pytest.mark.slow
def test_offline_nothing_is_sent_and_no_network_is_needed(tiny: Write, tmp_path: Path) -> None:
    path = tiny()
    Path("watching").mkdir()
    Path("watching/sitecustomize.py").write_text(WATCH)
    command = [sys.executable, "-m", "vitlab", "fit", "--config", str(path), "--run.wandb.mode", "offline"]
    if shutil.which("unshare") and subprocess.run(["unshare", "-rn", "true"], check=False).returncode == 0:
        command = ["unshare", "-rn", *command]  # not even a loopback interface
    with wandb_server() as server:
        python_path = os.pathsep.join(["watching", *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        environment = {"PYTHONPATH": python_path, "ATTEMPTS": str(tmp_path / "attempts"), "WANDB_BASE_URL": server.url}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
        assert not server.requests
    assert done.returncode == 0, done.stderr
    (said,) = [line for line in done.stderr.splitlines() if "W&B" in line]
    assert said == f"W&B: offline; `wandb sync {RUN}/wandb/offline-run-*` uploads it"
    attempts = (tmp_path / "attempts").read_text().splitlines() if (tmp_path / "attempts").is_file() else []
    assert [line for line in attempts if "wandb" not in line] == []  # but the socket file of W&B's own process
    assert len(list(RUN.glob("wandb/offline-run-*/*.wandb"))) == 1


def _killed_then_continued(tiny: Write, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train two epochs, the first start dying in the second."""
    path = tiny({"trainer": {"max_epochs": 2}})

    loggers: list[UnbreakableWandbLogger] = []

    def die(logger: UnbreakableWandbLogger) -> None:
        loggers.append(logger)
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        _at_row(4, die, patch)
        with pytest.raises(KeyError, match="killed"):
            run("fit", ["--config", str(path), "--run.wandb.mode", mode])
    loggers[0].experiment.finish(exit_code=1)  # as W&B's own process does when the run's is gone
    assert fit(path, "--run.wandb.mode", mode) == []


def _has_every_row(server: Server) -> None:
    (run_id,) = server.history
    assert run_id == (RUN / "wandb" / "run-id.txt").read_text()
    sent: Any = server.history[run_id]
    table = rows()
    assert {row["trainer/global_step"] for row in sent} >= set(table.step)
    last = {row["trainer/global_step"]: row["train/loss"] for row in sent if "train/loss" in row}
    losses = table.dropna(subset=["train/loss"])
    assert [last[step] for step in losses.step] == pytest.approx(losses["train/loss"].tolist(), rel=1e-6)
    assert [row["_step"] for row in sent] == list(range(len(sent)))  # W&B drops a row with a step that it has seen


@pytest.mark.slow
def test_a_continued_run_keeps_its_id_and_its_steps(
    tiny: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        _killed_then_continued(tiny, "online", monkeypatch)
        _has_every_row(server)
    address = f"W&B: {server.url}/me/vitlab/runs/{(RUN / 'wandb/run-id.txt').read_text()}"
    assert capsys.readouterr().err.count(address) == 2  # of both starts


@pytest.mark.slow
def test_wandb_sync_uploads_what_ran_offline_once(tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    _killed_then_continued(tiny, "offline", monkeypatch)
    assert len(list(RUN.glob("wandb/offline-run-*"))) == 2
    makefile = str(EXPERIMENTS.parent / "Makefile")
    command = ["make", "--file", makefile, "wandb-sync", "INSTALLED=", f"RUN={sys.executable}"]
    with wandb_server() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        subprocess.run(command, check=True)
        _has_every_row(server)
        requests = len(server.requests)
        subprocess.run(command, check=True)
        assert len(server.requests) == requests
