"""What `--help` of the commands that are no run says."""

import re

import pytest

from vitlab.commands.dispatch import run

COMMANDS = [
    "prepare",
    "compare",
    "robustness",
    "transfer",
    "benchmark",
    "benchmark memory",
    "benchmark batch",
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


def test_benchmark_lists_its_own_option_and_its_subcommands(capsys: pytest.CaptureFixture) -> None:
    assert run("benchmark", ["--help"]) == 0
    text = capsys.readouterr().out
    assert "--json FILE" in text
    assert "benchmark memory" in text
    assert "trainer" not in text  # fit's keys, which `fit --help` lists
