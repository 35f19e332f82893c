"""Plan a study: seeds, test images, hours, disk and energy that a difference takes."""

import math
from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser, split_data


def run(arguments: Sequence[str]) -> int:
    """Print the plan."""
    parser = StudyParser(
        prog="python -m vitlab plan STUDY.yaml",
        description="What a true difference takes in seeds, test images, hours, disk and energy, with ranges of 80 %, "
        "from a study's finished runs, or before any run from the size of the test set. `--data.root` as in compare.",
    )
    parser.add_argument(
        "--difference",
        type=float,
        help="to be found: points of accuracy, else the metric's unit [the study's margin]",
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs [runs]")
    arguments, data = split_data(arguments)
    study, options = parser.parse_study(arguments)
    difference = options.difference
    if difference is not None and not 0 < difference < math.inf:
        raise ValueError(f"--difference {difference:g}: expected a number above 0.")

    from vitlab.commands.quiet import quiet
    from vitlab.studies.planning import describe, plan_study

    quiet()
    planned = plan_study(study, options.root, data)
    difference = difference or planned.study.margin
    if difference is None:
        print(describe(planned, None))
        return 0
    if planned.metric.is_log and difference <= 1:
        raise ValueError(f"--difference {difference:g}: a factor on a logarithmic scale; give one above 1, like 1.5.")
    if planned.metric.is_fraction and difference >= 100:
        raise ValueError(f"--difference {difference:g}: points of accuracy are below 100.")
    print(describe(planned, planned.metric.own(difference)))
    return 0
