"""What `--help` of the commands that are no run says."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vitlab.commands.dispatch import run
from vitlab.evaluation import cost

COMMANDS = [
    "prepare",
    "compare",
    "robustness",
    "transfer",
    "benchmark",
    *(
        f"benchmark {table}"
        for table in ("model", "parity", "data", "framework", "step", "end-to-end", "scaling", "memory", "batch")
    ),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_line_names_each_option_once(command: str, capsys: pytest.CaptureFixture) -> None:
    assert run(command.split()[0], [*command.split()[1:], "--help"]) == 0
    text = capsys.readouterr().out
    usage = text.partition("\n\n")[0]
    assert usage.startswith(f"usage: python -m vitlab {command} ")
    options = re.findall(r"^  (?:(-\w) [^,]*, )?(--[\w-]+)", text, re.MULTILINE)
    assert options
    for short, long in options:
        assert sum(len(re.findall(rf"{name}(?![\w-])", usage)) for name in (short, long) if name) == 1, (long, usage)


def test_benchmark_lists_its_own_option_and_its_tables(capsys: pytest.CaptureFixture) -> None:
    assert run("benchmark", ["--help"]) == 0
    text = capsys.readouterr().out
    assert "--json FILE" in text
    assert "end-to-end" in text
    assert "trainer" not in text  # fit's keys, which `fit --help` lists


def test_an_experiment_is_measured_when_a_line_comes_in(
    tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """So `compare` lets the variants of a study take turns: ready once built, and after each turn."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    monkeypatch.setattr(cost, "LEAST_SECONDS", 0.0)
    assert run("benchmark", ["--config", str(tiny()), "--json", "cost.json", "--in_turn"]) == 0
    said = capsys.readouterr().out
    assert said.count(cost.READY) == 3
    assert " to " in next(line for line in said.splitlines() if line.startswith("train_range"))
    assert cost.Cost.read(Path("cost.json")).repetitions >= 2
