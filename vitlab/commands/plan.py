"""Plan a study: seeds, test images, hours, disk and energy that a difference takes."""

import math
from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser


def run(arguments: Sequence[str]) -> int:
    """Print the plan."""
    parser = StudyParser(
        prog="python -m vitlab plan STUDY.yaml",
        description="What a true difference takes in seeds, test images, hours, disk and energy, with ranges of 80 %, "
        "from a study's finished runs, another study's, or before any run from the size of the test set.",
    )
    parser.add_argument(
        "--difference", type=float, help="to be found: points of accuracy, else the metric's unit [the study's margin]"
    )
    parser.add_argument("--hours", type=float, help="that may be spent: how many seeds, and what they find [no limit]")
    parser.add_argument("--pilot", type=Path, help="folder or YAML of another study that gives the variances")
    parser.add_argument("--accuracy", type=float, help="per cent, assumed where no run is finished [90]")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    study, options = parser.parse_study(arguments)
    for name, value, most in (
        ("difference", options.difference, math.inf),
        ("hours", options.hours, math.inf),
        ("accuracy", options.accuracy, 100.0),
    ):
        if value is not None and not 0 < value < most:
            raise ValueError(f"--{name} {value:g}: expected a number above 0{' and below 100' if most == 100 else ''}.")

    from vitlab.commands.quiet import quiet
    from vitlab.studies.planned import describe
    from vitlab.studies.planning import plan_study

    quiet()
    accuracy = None if options.accuracy is None else options.accuracy / 100
    planned = plan_study(study, options.root, options.pilot, accuracy)
    if options.hours is not None and planned.seconds is None:
        raise ValueError(
            f"--hours {options.hours:g}: no finished run shows how long a run takes. Train one seed with `compare`, "
            "or name a study that has finished runs with --pilot."
        )
    difference = planned.study.margin if options.difference is None else options.difference
    if difference is None:
        raise ValueError(f"{study} has no margin, so the plan needs --difference, like --difference 1.0.")
    if planned.metric.is_fraction and difference >= 100:
        raise ValueError(f"--difference {difference:g}: points of accuracy are below 100.")
    print(describe(planned, difference / planned.metric.scale, options.hours))
    return 0
