"""Studies that train nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import fake_study
import pytest
from fake_study import Digits

from vitlab.studies.training import run_all as runner


@pytest.fixture(autouse=True)
def _quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.05)  # runs that train nothing are over before the half second


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stand-in for `fit` here, not in a process for each run."""
    fake_study.train_here(monkeypatch)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="session", autouse=True)
def _fake_experiments(digits: Digits) -> None:
    fake_study.patch(digits)


@pytest.fixture
def write_study(tmp_path: Path, digits: Digits) -> Callable[..., Path]:
    return partial(fake_study.write_study, tmp_path, digits)
