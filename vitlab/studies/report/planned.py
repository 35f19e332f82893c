"""A planned study in words: what a difference takes, what other sizes find, and what to write in the study's file."""

from collections.abc import Callable

from referee.formats import SPACE, counted
from referee.statistics.power import MOST_SEEDS, Need, Range

from vitlab.studies.format import engineering, two_digits
from vitlab.studies.planning import SIZES, Planned, Span
from vitlab.studies.report.verdict import moved_by_images


def describe(planned: Planned, difference: float, hours: float | None) -> str:
    """Return the plan as text.

    Args:
        difference: To be found, in the metric's unit; accuracy as a fraction.
        hours: That may be spent; None: no limit.
    """
    needed = planned.need(difference)
    parts = [
        _variances(planned),
        _needed(planned, difference, needed),
        _sizes(planned),
        _advice(planned, difference, hours),
    ]
    return "\n\n".join(filter(None, parts)).replace(SPACE, " ")


def _variances(planned: Planned) -> str:
    pilot, metric = planned.pilot, planned.metric
    known = (pilot.point, pilot.low, pilot.high)
    seeds = _span(Span(*(metric.scale * each.seeds**0.5 for each in known)))
    looks = planned.study.looks
    lines = [
        f"{planned.study.name}: {counted(pilot.variants, 'variant')}. Variances from {planned.source}; "
        "in brackets ranges of 80 %.",
        f"  standard deviation of a run over seeds: {seeds}{' points' if metric.is_accuracy else ''}",
    ]
    if len(looks) > 1:
        lines.append(
            f"  results are looked at after {looks[0]} to {looks[-1]} seeds, at the level {pilot.level(looks[-1]):.3f}"
        )
    elif planned.seen > 1:
        lines.append(f"  results of {planned.seen} seeds were looked at already, so more seeds have a stricter level")
    if metric.is_accuracy:
        moved = _span(Span(*(100 * moved_by_images(each.images) for each in known)))
        images = counted(pilot.test_images, "test image")
        lines.append(f"  the choice of {images} moves a difference by ± {moved} points")
    return "\n".join(lines)


def _needed(planned: Planned, difference: float, needed: Need) -> str:
    """Return what the difference takes, one quantity a line."""
    pilot, size = planned.pilot, planned.metric.size(difference)
    if needed.images is not None:
        moved = two_digits(100 * moved_by_images(pilot.point.images))
        return (
            f"More seeds alone will not find a true difference of {size}: the choice of "
            f"{counted(pilot.test_images, 'test image')} moves it by ± {moved} points.\n"
            f"It takes {needed.images} test images."
        )
    rows = {"seeds of each variant": _range(needed.seeds, lambda n, end: f"{n:,}")}
    if planned.metric.is_accuracy:
        rows["test images"] = f"the {pilot.test_images:,} there are"
    rows["runs"] = _range(needed.seeds, lambda n, end: f"{planned.runs(n) * pilot.variants:,}")
    if planned.finished:
        rows["runs"] += f"; {planned.finished} are finished"
    if planned.costs is None:
        rows["hours, disk, energy"] = "known once a run has finished"
    else:
        rows["hours"] = _range(needed.seeds, lambda n, end: two_digits(planned.hours(n)[end]))
        rows["hours"] += f", {counted(planned.jobs, 'run')} at a time"
        rows["disk"] = _range(needed.seeds, lambda n, end: engineering(planned.disk(n), "B"))
        energy = _range(needed.seeds, lambda n, end: two_digits(planned.kwh(n) or 0.0))
        rows["energy, kWh"] = "not measured" if planned.kwh(1) is None else f"{energy}, of the training steps"
    title = f"Four of five such studies find a true difference of {size} with"
    return "\n".join([title, *(f"  {name:<22} {text}" for name, text in rows.items())])


def _sizes(planned: Planned) -> str:
    """Return the table of sizes, the difference they find and their hours."""
    unit = "points" if planned.metric.is_accuracy else planned.metric.name
    head = ["seeds", f"true difference found, {unit}", "runs", *(["hours"] if planned.costs else [])]
    rows = [head]
    for n in (size for size in SIZES if size >= min(planned.study.looks, default=0)):
        found = Span(*(planned.metric.scale * each for each in planned.detectable(n)))
        row = [str(n), _span(found), str(planned.runs(n) * planned.pilot.variants)]
        rows.append([*row, _span(planned.hours(n))] if planned.costs else row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  " + "   ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def _advice(planned: Planned, difference: float, hours: float | None) -> str:
    """Return what the hours allow, and the seeds to write: of a study that ends as soon as it is settled."""
    lines, first = [], planned.first_look
    needed = planned.watched.need(difference)
    most = None if needed.images else needed.seeds.high
    if hours is not None:
        size = min(planned.affordable(hours), MOST_SEEDS)
        if size < 2:
            least = two_digits(planned.hours(2).point)
            return f"{two_digits(hours)} h are too short for two seeds of each variant, which take {least} h."
        design = planned.watched if size > first else planned
        found = _span(Span(*(planned.metric.scale * each for each in design.detectable(size))))
        unit = " points" if planned.metric.is_accuracy else ""
        lines.append(
            f"{counted(size, 'seed')} of each variant fit into {two_digits(hours)} h; they find a true difference of "
            f"{found}{unit}."
        )
        most = None if needed.images else min(size, most or size)
    if most is not None:
        seeds = f"{{from: {first}, to: {most}}}" if most > first else str([*range(1, most + 1)])
        lines.append(f"Write `seeds: {seeds}` in the study's file.")
    return "\n".join(lines)


def _span(span: Span) -> str:
    """Return a number with its range, like 1.2 (0.8 to 2.1)."""
    point, *ends = map(two_digits, span)
    return point if ends == [point, point] else f"{point} ({' to '.join(ends)})"


def _range(numbers: Range, show: Callable[[int, int], str]) -> str:
    """Return a range in another unit; `show` gets a number of seeds, and which end it is: 0 point, 1 low, 2 high."""
    texts = [f"over {show(MOST_SEEDS, end)}" if n is None else show(n, end) for end, n in enumerate(numbers)]
    return texts[0] if len(set(texts)) == 1 else f"{texts[0]} ({texts[1]} to {texts[2]})"
