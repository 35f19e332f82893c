"""Options of the commands that are no run."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vitlab.errors import explain


class StudyParser(argparse.ArgumentParser):
    """argparse, but a wrong option is a ValueError like every other mistake, and prefixes are not options."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(explain(message, self._option_string_actions))

    def add_out(self, what: str) -> None:
        """Add `--out`, the folder that a benchmark writes to."""
        out = Path("runs/benchmark")
        self.add_argument("--out", type=Path, default=out, help=f"folder of {what} [{out}]")


def take_option(arguments: Sequence[str], option: str) -> tuple[list[str], str | None]:
    """Return the arguments without `--option value`, and the value."""
    rest, value = [], None
    pending = iter(arguments)
    for argument in pending:
        name, equals, given = argument.partition("=")
        if name == option:
            value = given if equals else next(pending, "")
        else:
            rest.append(argument)
    return rest, value
