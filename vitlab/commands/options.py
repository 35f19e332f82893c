"""What the command line of a command is made of. Nothing heavy is imported before its options have been read."""

from __future__ import annotations

import argparse
import gc
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vitlab import log
from vitlab.config import Config, expanded, load_yaml, merge, nest, pairs, parse_yaml, short, split, texts_of, trust
from vitlab.experiment.class_paths import KINDS
from vitlab.experiment.errors import SECTIONS, explain
from vitlab.internals import options_of

if TYPE_CHECKING:
    from vitlab.deployment.load import LoadedModel
    from vitlab.experiment.experiment import Experiment


def experiment_of(arguments: Sequence[str], images: bool = True) -> Experiment:
    """Return the experiment that the arguments describe; `--help` and `--print_config` print and exit.

    `images` is whether the command reads the experiment's images, which must then exist.
    """
    refuse_unknown_name(arguments)

    from vitlab.experiment.experiment import Experiment
    from vitlab.experiment.parser import print_help_of_run

    if {"-h", "--help"} & set(arguments):
        print_help_of_run()
        raise SystemExit(0)
    quiet()
    return Experiment.from_arguments(arguments, images)


def model_of(arguments: Sequence[str]) -> LoadedModel:
    """Return the trained model that the arguments describe; that of a run alone needs no configuration to be read."""
    refuse_unknown_name(arguments)

    from vitlab.deployment.load import load, of_experiment

    if len(arguments) == 2 and arguments[0] == "--config" and Path(arguments[1]).is_dir():
        quiet()
        model = load(arguments[1])
        log.info("Weights: %s", model.source)
        return model
    return of_experiment(experiment_of(arguments, images=False))


def trust_given(arguments: Sequence[str]) -> list[str]:
    """Trust the modules of `--import` and of class paths on the command line; return the other arguments."""
    parser = argparse.ArgumentParser("python -m vitlab", add_help=False, allow_abbrev=False)
    parser.add_argument("--import", action="append", default=[], dest="modules")
    given, rest = parser.parse_known_args(arguments)
    for module in given.modules:
        try:
            import_module(module)
        except (ImportError, ValueError, TypeError) as error:
            raise ValueError(f"--import {module}: {error}. Give a module, like examples.objective.") from None
    for key, value in pairs(rest):
        inline = "class_path" in value and value[0] in "[{"
        is_class = key.removesuffix("+").rpartition(".")[2] in (*KINDS, "class_path")
        texts = texts_of(parse_yaml(value, f"--{key}")) if inline else [(value, is_class)]
        given.modules += [text.rpartition(".")[0] for text, is_class in texts if is_class and "." in text]
    trust(*given.modules)
    return rest


def refuse_unknown_name(arguments: Sequence[str]) -> None:
    """Raise FileNotFoundError if a command that takes a configuration first has a word there that names none."""
    if arguments and not arguments[0].startswith("-") and not split(arguments[:1])[0]:
        load_yaml(arguments[0])


class StudyParser(argparse.ArgumentParser):
    """argparse, but a wrong option is a ValueError like every other mistake, and prefixes are not options."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)
        self.register("type", Path, lambda text: Path(expanded(text)))

    def error(self, message: str) -> NoReturn:
        message = message.replace("the following arguments are required", f"`{self.prog}` needs")
        raise ValueError(explain(message, options_of(self)))

    def parse_runs(
        self, arguments: Sequence[str], required: bool = True
    ) -> tuple[list[str], argparse.Namespace, list[str]]:
        """Return the files and runs that are given, with `--config` or without, the command's options, and the rest."""
        refuse_unknown_name(arguments)
        files, rest = split(arguments)
        options, others = self.parse_known_args(rest)
        if required and not files and not others:
            self.error("the following arguments are required: a file, or the directory of a run")
        return list(dict.fromkeys(files)), options, others

    def parse_study(self, arguments: Sequence[str]) -> tuple[Path, argparse.Namespace, Config]:
        """Return the one study that the arguments name, the other options, and the settings of its data."""
        from vitlab.studies.file.study import KEYS  # here, because commands import this first

        files, options, others = self.parse_runs(arguments, required=False)
        data, pending = dict[str, Any](), iter(others)
        for word in pending:
            name, equals, value = word.partition("=")
            key = re.split(r"[.=]", word.lstrip("-"))[0]
            if word.startswith("--data."):
                value = value if equals else next(pending, "")
                if not value or (value.startswith("--") and not equals):
                    raise ValueError(f"{name} needs a value, like {name}=VALUE.")
                is_path = name.endswith((".root", ".table")) and value != "null"  # a folder 0755 is not a number
                data = merge(data, nest(short(name[len("--data.") :]), value if is_path else parse_yaml(value, name)))
            elif not word.startswith("-"):  # after a flag, which takes no value
                files.append(word)
            elif key in (*KEYS, *SECTIONS):
                remedy = "give --data.root FOLDER" if key == "data" else f"edit `{key}` there, or in a copy"
                where = "base" if key in SECTIONS and key != "data" else "file"
                raise ValueError(f"{word}: the study's {where} says this; {remedy}.")
            else:
                self.error(f"unrecognized arguments: {word}")
        if len(files) != 1:
            command = self.prog.split()[-2]
            named = " and ".join(files) or "none"
            raise ValueError(f"{command} takes one study, got {named}. For example: {command} my_study.yaml")
        return Path(files[0]), options, data


SILENCED = (
    ".*does not have many workers.*",  # in-memory data is read by the main process on purpose
    ".*smaller than the logging interval.*",  # epochs shorter than that are logged whole
    ".*but have no `validation_step`.*",  # DINO and MSN have no loss to validate by
    ".*Checkpoint directory .* exists and is not empty.*",  # the run is continued,
    ".*The dirpath has changed from.*",  # or trained further
    ".*`srun` command is available.*",  # true of every run on a login node of a cluster
    r".*use `self.log\('(images_per_second|data_wait|tflops|mfu|val/(knn|rank|std))'.*",  # one process logs for all
    ".*IProgress not found.*",  # tqdm, which huggingface_hub imports, asks for widgets in a notebook
    ".*treespec, LeafSpec.*",  # Lightning 2.6 calls torch's pytree in a way that torch 2.15 has deprecated
)


def quiet() -> None:
    """Print vitlab's log to stderr, and of Lightning only what the user turned on: a profiler, a model summary."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    seen: dict[str, logging.LogRecord] = {}  # each line once: all variants and folds of a study read the same images
    handler.addFilter(lambda record: seen.setdefault(record.getMessage(), record) is record)
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO if rank_zero_only.rank == 0 else logging.WARNING)  # type: ignore[attr-defined]
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("profilers.profiler", "callbacks.model_summary"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(log.level)
    for message in SILENCED:
        warnings.filterwarnings("ignore", message=message)
    if not gc.isenabled():  # as `vitlab.__main__` starts; what is imported by now is no garbage
        gc.freeze()
        gc.enable()
