"""Studies that train nothing."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import fake_study
import pytest
from fake_study import Digits

from vitlab.studies.execution import local as runner
from vitlab.studies.report import figures


@pytest.fixture(autouse=True)
def _quick_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.05)  # runs that train nothing are over before the half second


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts of a report empty, for tests of its text."""
    monkeypatch.setattr(figures, "draw", lambda chart, results, folder: figures.Drawing(chart, "", ""))


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="session", autouse=True)
def _fake_experiments(digits: Digits) -> None:
    fake_study.patch(digits)


@pytest.fixture
def write_study(tmp_path: Path, digits: Digits) -> Callable[..., Path]:
    return partial(fake_study.write_study, tmp_path, digits)
