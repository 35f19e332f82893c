"""Options of the commands that are no run."""

import argparse
from pathlib import Path
from typing import NoReturn

from vitlab.experiment.errors import explain
from vitlab.internals import options_of


class StudyParser(argparse.ArgumentParser):
    """argparse, but a wrong option is a ValueError like every other mistake, and prefixes are not options.

    Args:
        prog: The command, and what it takes that is no option of this parser, like a run's `--config FILE.yaml`; its
            own options follow in the usage line.
    """

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise ValueError(explain(message, options_of(self)))

    def add_out(self, what: str) -> None:
        """Add `--out`, the folder that a benchmark writes to."""
        out = Path("runs/benchmark")
        self.add_argument("--out", type=Path, default=out, help=f"folder of {what} [{out}]")
