"""`compare`, `plan` and `verdict`: run a study, plan one, and ask what one concluded.

A verdict is an exit status, so that a script can ask whether a gain is noise.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveFloat

from vitlab.atomic_files import read_json
from vitlab.commands.options import StudyParser, quiet, split_data
from vitlab.experiment.errors import need


def run_compare(arguments: Sequence[str]) -> int:
    """Run a study and write its report."""
    parser = StudyParser(
        "python -m vitlab compare STUDY.yaml",
        "Run a study: variants × seeds, then a report. `--data.root photos` and other settings of the data change the "
        "base of the study.",
    )
    again = "train again what has another configuration or was cut short"
    parser.add_argument("--overwrite", action="store_true", help=again)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    parser.add_argument("--dashboard", action="store_true", help="show the report in W&B; offline without a key")
    elsewhere = (
        "train elsewhere: slurm partition=gpu, dask address=tcp://host:8786, ray, or an import path; give it once for "
        "each kind of machine"
    )
    names = ("NAME", "KEY=VALUE")
    parser.add_argument("--executor", nargs="+", action="append", default=[], metavar=names, help=elsewhere)
    anew = "register a claim whose settings changed after an outcome; new seeds"
    parser.add_argument("--register-anew", action="store_true", help=anew)
    arguments, data = split_data(arguments)
    study, options = parser.parse_study(arguments)

    from vitlab.studies.compare import RunsFailed, compare

    quiet()
    dashboard, executors = None, []
    if options.dashboard:
        need("dashboard", "wandb_workspaces", what="--dashboard")
        from vitlab.runs.loggers import Wandb
        from vitlab.studies.report.wandb import write_dashboard

        settings = Wandb()
        dashboard = partial(write_dashboard, online=settings.enabled and not settings.offline)
    if options.executor:
        from vitlab.studies.training.executors import new_executor

        by_words = {tuple(words): partial(new_executor, words[0], words[1:]) for words in options.executor}
        executors = [by_words[tuple(words)] for words in options.executor]
    given: dict[str, Any] = {"dashboard": dashboard, "executors": executors, "data": data}
    given["register_anew"] = options.register_anew
    try:
        print(f"The report: {compare(study, options.root, options.overwrite, **given)}")
    except RunsFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


def run_plan(arguments: Sequence[str]) -> int:
    """Print the plan."""
    parser = StudyParser(
        prog="python -m vitlab plan STUDY.yaml",
        description="What a true difference takes in seeds, test images, hours, disk and energy, with ranges of 80 %, "
        "from a study's finished runs, or before any run from the size of the test set. `--data.root` as in compare.",
    )
    what = "to be found: points of accuracy, else the metric's unit [the study's margin]"
    parser.add_argument("--difference", type=PositiveFloat, help=what)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    arguments, data = split_data(arguments)
    study, options = parser.parse_study(arguments)

    from vitlab.studies.planning import describe, plan_study

    quiet()
    planned = plan_study(study, options.root, data)
    difference = options.difference or planned.study.margin
    if difference is None:
        print(describe(planned, None))
        return 0
    if planned.metric.is_log and difference <= 1:
        raise ValueError(f"--difference {difference:g}: a factor on a logarithmic scale; give one above 1, like 1.5.")
    if planned.metric.is_fraction and difference >= 100:
        raise ValueError(f"--difference {difference:g}: points of accuracy are below 100.")
    print(describe(planned, planned.metric.own(difference)))
    return 0


def run_verdict(arguments: Sequence[str]) -> int:
    """Print the verdict of a study or of two of its variants, and return its status."""
    from referee.answer import STATUS, answered

    statuses = ", ".join(f"{status}: {verdict}" for verdict, status in STATUS.items())
    parser = StudyParser("python -m vitlab verdict", f"What a reported study concluded. Exit status: {statuses}.")
    parser.add_argument("alone", nargs="?", type=Path, metavar="STUDY", help="short for --study STUDY")
    parser.add_argument("--study", type=Path, help="its folder, like runs/quickstart, or its YAML file")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs, for a YAML file [runs]")
    parser.add_argument("--better", metavar="VARIANT", help="is it better … [the one with the best mean]")
    parser.add_argument("--than", metavar="VARIANT", help="… than this one? [than all others]")
    options = parser.parse_args(arguments)
    study = options.study or options.alone
    if study is None:
        raise ValueError("verdict takes a study, its folder or its YAML file. For example: verdict runs/quickstart")
    path = study / "verdict.json"
    if study.suffix in (".yaml", ".yml"):
        from vitlab.studies.file.study import read_study

        path = read_study(study).folder(options.root) / "verdict.json"
    if not path.is_file():
        if places := ", ".join(str(each.parent) for each in sorted(path.parent.glob("*/verdict.json"))):
            raise ValueError(f"{study} has a verdict for each place of its axis; give one of {places}.")
        raise FileNotFoundError(f"{path} does not exist. `python -m vitlab compare` writes it into the study's folder.")
    record = read_json(path)
    lines, status = answered(record, options.better, options.than, f" of {study}")
    print(*lines, sep="\n")
    return status
