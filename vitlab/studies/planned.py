"""A planned study in words: what a difference takes, what other sizes find, and what to write in the study's file."""

from collections.abc import Callable

from referee.formats import SPACE, counted, two_digits
from referee.plan import in_range, needed, sizes, variances
from referee.statistics.power import MOST_SEEDS, Range

from vitlab.studies.file.format import engineering
from vitlab.studies.planning import Planned


def describe(planned: Planned, difference: float, hours: float | None) -> str:
    """Return the plan as text.

    Args:
        difference: To be found, in the metric's unit; accuracy as a fraction.
        hours: That may be spent; None: no limit.
    """
    parts = [
        f"{planned.study.name}: {variances(planned, planned.seen)}",
        needed(planned, difference, _rows(planned)),
        sizes(planned),
        _advice(planned, difference, hours),
    ]
    return "\n\n".join(filter(None, parts)).replace(SPACE, " ")


def _rows(planned: Planned) -> dict[str, Callable[[Range], str]]:
    """Return the rows on runs, hours, disk and energy, from the seeds of each variant."""
    rows: dict[str, Callable[[Range], str]] = {}
    if planned.finished:
        rows["runs"] = lambda seeds: f"; {planned.finished} are finished"
    if planned.seconds is None:
        return rows | {"hours, disk, energy": lambda seeds: "known once a run has finished"}

    def hours(seeds: Range) -> str:
        shown = in_range(seeds, lambda n, end: two_digits(planned.hours(n)[end]))
        return f"{shown}, {counted(planned.jobs, 'run')} at a time"

    def energy(seeds: Range) -> str:
        shown = in_range(seeds, lambda n, end: two_digits(planned.kwh(n) or 0.0))
        return "not measured" if planned.kwh(1) is None else f"{shown}, of the training steps"

    def disk(seeds: Range) -> str:
        return in_range(seeds, lambda n, end: engineering(planned.disk(n), "B"))

    return rows | {"hours": hours, "disk": disk, "energy, kWh": energy}


def _advice(planned: Planned, difference: float, hours: float | None) -> str:
    """Return what the hours allow, and the seeds to write: of a study that ends as soon as it is settled."""
    lines, first = [], planned.first_look
    takes = planned.watched.need(difference)
    most = None if takes.images else takes.seeds.high
    if hours is not None:
        size = min(planned.affordable(hours), MOST_SEEDS)
        if size < 2:
            least = two_digits(planned.hours(2).point)
            return f"{two_digits(hours)} h are too short for two seeds of each variant, which take {least} h."
        design = planned.watched if size > first else planned
        unit = " points" if planned.metric.is_fraction else ""
        lines.append(
            f"{counted(size, 'seed')} of each variant fit into {two_digits(hours)} h; they find a true difference of "
            f"{design.detectable(size)}{unit}."
        )
        most = None if takes.images else min(size, most or size)
    if most is not None:
        seeds = f"{{from: {first}, to: {most}}}" if most > first else str([*range(1, most + 1)])
        lines.append(f"Write `seeds: {seeds}` in the study's file.")
    return "\n".join(lines)
