"""What the command line of a command is made of. Nothing heavy is imported before its options have been read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vitlab.commands.help import help_of_run
from vitlab.experiment.errors import explain
from vitlab.internals import options_of

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment


def experiment_of(arguments: Sequence[str], images: bool = True) -> Experiment:
    """Return the experiment that the arguments describe; `--help` and `--print_config` print and exit.

    Args:
        images: the command reads the experiment's images, which have to exist.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_of_run())
        raise SystemExit(0)
    from vitlab.commands.quiet import quiet
    from vitlab.experiment.experiment import Experiment

    quiet()
    return Experiment.from_arguments(arguments, images)


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
