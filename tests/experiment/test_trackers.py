"""The commands of docs/commands.md, *Trackers*, on a run of two steps: what a tracker stores is what metrics.csv has.

They are no dependencies: `pip install 'vitlab[trackers]'`. Of W&B, offline and by key, tests/runs/test_wandb.py.
"""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from referee.sources import read_events

from tests.conftest import EXPERIMENTS
from vitlab.commands.dispatch import run

Write = Callable[..., Path]
PAGE = (EXPERIMENTS.parent / "docs/commands.md").read_text()
SECTION = PAGE.partition("\n## Trackers\n")[2].partition("\n## ")[0]
OPTIONS = {
    found[2].split()[0].removesuffix("Logger").rpartition(".")[2].lower(): shlex.split(found[1] + found[2])
    for found in re.finditer(r"(--trainer\.logger )([^\n`]+)", SECTION)
}
SHORT = {"trainer": {"limit_train_batches": 2, "max_epochs": 2}, "run": {"test": False}}
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of packages that are not ours


def of_tensorboard() -> float:
    (file,) = Path("logs").rglob("events.out.tfevents.*")
    return read_events(file, None)["val/top1"].dropna().iloc[-1]


def of_mlflow() -> float:
    (file,) = Path("mlruns").rglob("metrics/val/top1")
    return float(file.read_text().splitlines()[-1].split()[1])


def of_trackio() -> float:
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("vitlab")
    return [row["val/top1"] for row in SQLiteStorage.get_logs("vitlab", name) if "val/top1" in row][-1]


@pytest.mark.parametrize("stored", [of_tensorboard, of_mlflow, of_trackio])
def test_a_tracker_has_the_metrics(stored: Callable[[], float], tiny: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    name = stored.__name__.removeprefix("of_")
    pytest.importorskip(name, reason="pip install 'vitlab[trackers]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(Path("trackio").resolve()))
    monkeypatch.syspath_prepend(EXPERIMENTS.parent)  # of examples.tracker
    assert run("fit", ["--config", str(tiny(SHORT)), *OPTIONS[name]]) == 0
    assert stored() == pytest.approx(pd.read_csv("runs/tiny/seed-0/metrics.csv")["val/top1"].dropna().iloc[-1])
