"""Run a study: variants × seeds, then a report."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from vitlab.commands.options import StudyParser, split_data
from vitlab.experiment.errors import need


def run(arguments: Sequence[str]) -> int:
    """Run a study and write its report."""
    parser = StudyParser(
        "python -m vitlab compare STUDY.yaml",
        "Run a study: variants × seeds, then a report. `--data.root photos` and other settings of the data change the "
        "base of the study.",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="train again what has another configuration or was cut short"
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    parser.add_argument("--dashboard", action="store_true", help="show the report in W&B; offline without a key")
    parser.add_argument(
        "--executor",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "KEY=VALUE"),
        help="train elsewhere: slurm partition=gpu, dask address=tcp://host:8786, ray, or an import path; give it once "
        "for each kind of machine",
    )
    parser.add_argument(
        "--register-anew", action="store_true", help="register a claim whose settings changed after a word; new seeds"
    )
    arguments, data = split_data(arguments)
    study, options = parser.parse_study(arguments)

    from vitlab.commands.quiet import quiet
    from vitlab.studies.compare import RunsFailed, compare

    quiet()
    dashboard, executors = None, []
    if options.dashboard:
        need("dashboard", "wandb_workspaces", what="--dashboard")
        from vitlab.runs.wandb import Wandb
        from vitlab.studies.report.wandb import write_dashboard

        settings = Wandb()
        dashboard = partial(write_dashboard, online=settings.enabled and not settings.offline)
    if options.executor:
        from vitlab.studies.training.executors import new_executor

        by_words = {tuple(words): partial(new_executor, words[0], words[1:]) for words in options.executor}
        executors = [by_words[tuple(words)] for words in options.executor]
    try:
        report = compare(
            study,
            options.root,
            options.overwrite,
            dashboard=dashboard,
            executors=executors,
            register_anew=options.register_anew,
            data=data,
        )
    except RunsFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    print(f"The report: {report}")
    return 0
