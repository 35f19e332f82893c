"""What is counted on a terminal is one line, erased at the end; elsewhere nothing is written."""

import sys

import pytest

from vitlab.data import checking as terminal
from vitlab.data.checking import counted


def test_a_terminal_shows_the_share_that_is_done_and_forgets_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(terminal.time, "monotonic", iter(range(99)).__next__)
    assert list(counted("abcd", 4, "Reading")) == [*"abcd"]
    shown = capsys.readouterr().err.split("\r\x1b[K")
    assert shown == ["", "Reading: 0%", "Reading: 25%", "Reading: 50%", "Reading: 75%", ""]


def test_a_line_is_not_wider_than_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "20")
    terminal.show("x" * 50)
    assert capsys.readouterr().err.count("x") == 19


def test_a_log_file_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(counted(range(3), 3, "Reading")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
