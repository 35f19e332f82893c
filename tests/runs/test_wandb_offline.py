"""metrics.csv whole after every event; W&B that can break without breaking the run."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from vitlab.runs.loggers import MetricsFile, UnbreakableWandbLogger, Wandb


@pytest.fixture
def said() -> Iterator[list[str]]:
    """The warnings in our log so far."""
    log, lines = logging.getLogger("vitlab"), list[str]()

    def keep(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            lines.append(record.getMessage())
        return True

    log.addFilter(keep)
    yield lines
    log.removeFilter(keep)


def test_a_new_metric_adds_a_column_and_loses_nothing(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"train/loss": 1.5, "epoch": 0}, step=3)
    file.log_metrics({"val/top1": 0.25, "epoch": 0}, step=3)
    table = pd.read_csv(file.path)
    assert list(table.columns) == ["step", "epoch", "train/loss", "val/top1"]
    assert table["train/loss"].tolist()[0] == 1.5
    assert table["val/top1"].tolist()[1] == 0.25
    assert table.isna().sum().sum() == 2


def test_continuing_drops_the_rows_after_the_checkpoint_and_half_a_line(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in (10, 20, 30):
        file.log_metrics({"train/loss": 1 / step, "val/top1": 0.5, "epoch": step // 10}, step=step)
    with file.path.open("a") as handle:
        handle.write("40,4,0.0")  # killed while writing
    again = MetricsFile(file.path)
    again.keep_until(21)  # steps taken; Lightning counts the rows' from 0
    again.log_metrics({"train/loss": 2.0, "epoch": 3}, step=30)
    assert pd.read_csv(file.path).step.tolist() == [10, 20, 30]


def test_beginning_again_forgets_the_old_rows(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"old": 1.0, "epoch": 0}, step=1)
    file.keep_until(0)
    file.log_metrics({"new": 1.0, "epoch": 0}, step=1)
    assert list(pd.read_csv(file.path).columns) == ["step", "epoch", "new"]


def test_wandb_is_offline_without_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    assert Wandb().offline
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert not Wandb().offline
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert not Wandb().enabled


class _Broken:
    def __getattr__(self, name: str) -> Any:
        raise ConnectionError("W&B is not there")


def test_a_broken_wandb_warns_once_and_never_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    logger = UnbreakableWandbLogger(Wandb(mode="offline"), tmp_path, "name", {})
    logger.log_metrics({"loss": 1.0}, step=0)  # not started: nothing happens
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(UnbreakableWandbLogger, "_init", lambda *arguments: _Broken())
    logger.start()
    logger.log_metrics({"loss": 1.0}, step=1)
    assert said == ["W&B stopped working (W&B is not there); the run continues, metrics.csv has every metric."]
    logger.log_metrics({"loss": 1.0}, step=2)
    logger.finish()
    assert len(said) == 1


def test_a_wandb_that_cannot_be_imported_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    logger = UnbreakableWandbLogger(Wandb(mode="online"), tmp_path, "name", {})
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger.start()
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finish()
    (line,) = said
    assert line.startswith("W&B stopped working (import of wandb halted")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_of_the_users_that_is_open_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    own = wandb.init(dir=tmp_path, mode="offline", settings=wandb.Settings(silent=True, disable_git=True))
    logger = UnbreakableWandbLogger(Wandb(), tmp_path, "name", {})
    logger.start()
    assert logger.experiment.id == (tmp_path / "wandb" / "run-id.txt").read_text() != own.id
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.finish()
    own.log({"mine": 1.0})  # which raises once a run is finished
    own.finish()
    assert not logger.broken


@pytest.mark.slow
def test_a_continued_run_is_the_same_wandb_run_with_the_whole_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    ids = []
    for _ in range(2):
        logger = UnbreakableWandbLogger(Wandb(), tmp_path, "name", {"model": {"lr": 0.1}})
        logger.start()
        logger.log_metrics({"loss": 1.0}, step=1)
        assert logger.experiment.config["model"] == {"lr": 0.1}
        ids.append(logger.experiment.id)
        logger.finish()
        assert not logger.broken
    assert ids[0] == ids[1] == (tmp_path / "wandb" / "run-id.txt").read_text()
