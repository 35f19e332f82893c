"""What the command line of a command is made of. Nothing heavy is imported before its options have been read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vitlab.commands.help import CLASSES, FIRST, class_names, help_of_run, run_options, trainer_options
from vitlab.config import flatten, load_yaml, pairs, short, split
from vitlab.experiment.class_names import PLACES
from vitlab.experiment.errors import SECTIONS, check_sections, explain, nearest, nearest_key
from vitlab.experiment.run_directory import config_file
from vitlab.internals import options_of

if TYPE_CHECKING:
    from vitlab.experiment.experiment import Experiment


def experiment_of(arguments: Sequence[str], images: bool = True) -> Experiment:
    """Return the experiment that the arguments describe; `--help` and `--print_config` print and exit.

    Args:
        images: whether the command reads the experiment's images, which must then exist.
    """
    if {"-h", "--help"} & set(arguments):
        print(help_of_run())
        raise SystemExit(0)
    if "torch" not in sys.modules:
        check_names(arguments)
    from vitlab.commands.quiet import quiet
    from vitlab.experiment.experiment import Experiment

    quiet()
    return Experiment.from_arguments(arguments, images)


def check_names(arguments: Sequence[str]) -> None:
    """Answer a misspelt section, key of `run` or `trainer`, or class as the parser would, without importing torch.

    Only the parser knows the keys of `model` and `data`, which depend on their classes.
    """
    files, rest = split(arguments)
    configs = [load_yaml(config_file(file)) for file in files]
    for config in configs:
        check_sections(config)
    written = [short(key) for config in configs for key in flatten(config)]
    options = [*FIRST, *run_options(), *trainer_options()]
    candidates = [*options, *(key for key in written if key.startswith(("model.", "data.")))]
    for key in (*written, *(key.removesuffix("+") for key, _ in pairs(rest))):
        section = key.partition(".")[0]
        if any(f"{option}.".startswith(f"{key}.") or key.startswith(f"{option}.") for option in options):
            continue
        hint = nearest_key(key, candidates)
        if section in ("run", "trainer") or (hint and section not in SECTIONS):
            raise ValueError(f"no option {key}.{hint}")
    values = [pair for config in configs for pair in flatten(config).items()] + pairs(rest)
    classes = {short(key).removesuffix(".class_path"): value for key, value in values}
    for key in CLASSES:
        module, _, word = str(classes.get(key)).rpartition(".")
        names = class_names(key)
        if word not in names and module in ("", *PLACES[key][1]) and (hint := nearest(word, names)):
            raise ValueError(f"{key}: no class {word}.{hint}")


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

    def parse_study(self, arguments: Sequence[str]) -> tuple[Path, argparse.Namespace]:
        """Return the one study that the arguments name, with `--config` or without, and the other options."""
        files, rest = split(arguments)
        options = self.parse_args(rest)
        if len(files) != 1:
            command = self.prog.split()[-2]
            named = " and ".join(files) or "none"
            raise ValueError(f"{command} takes one study, got {named}. For example: {command} my_study.yaml")
        return Path(files[0]), options
