"""How many seeds or items a difference takes, by the variances of runs that are there."""

import math
from dataclasses import dataclass

from referee.formats import counted
from referee.statistics.power import Need, detectable, need
from referee.verdict import Verdict

SIZES = (3, 5, 7, 10, 15, 20)  # seeds of each variant, in the table


@dataclass(frozen=True)
class Plan:
    """What a true difference takes in four of five studies, and what each number of seeds would find."""

    difference: float  # in the metric's own unit
    need: Need
    found: dict[int, float]  # by seeds of each variant: the true difference that 4 of 5 studies call better


def plan(verdict: Verdict, difference: float) -> Plan:
    """Plan a study of the same variants.

    Args:
        verdict: of a pilot with two seeds or more of two variants.
        difference: as scores are shown: in points for a fraction.

    Raises:
        ValueError: a pilot without a variance over seeds, or a difference that is not positive.
    """
    if not difference > 0 or not math.isfinite(difference):
        raise ValueError(f"--difference {difference}: give a number above 0, in the unit of the scores.")
    if verdict.pilot is None:
        raise ValueError("A plan needs the spread over seeds: give two seeds or more of two variants.")
    size = difference / verdict.metric.scale
    return Plan(size, need(verdict.pilot, size), {n: detectable(verdict.pilot, n) for n in SIZES})


def in_words(planned: Plan, verdict: Verdict) -> list[str]:
    """Return the plan as lines."""
    metric = verdict.metric
    if planned.need.images is None:
        lines = [
            f"To settle a true lead of {metric.size(planned.difference)}: {planned.need.seeds} seeds of each variant."
        ]
    else:
        lines = [
            f"More seeds alone will not settle a lead of {metric.size(planned.difference)}: it takes at least "
            f"{planned.need.images} test items."
        ]
    lines.append("What 4 of 5 studies would call better, by seeds of each variant:")
    lines += [f"  {counted(n, 'seed')}: {metric.difference(d, verdict.digits)}" for n, d in planned.found.items()]
    return lines
