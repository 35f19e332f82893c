"""Studies along a numeric axis, one verdict a place: which variant is best where, and where two of them cross."""

import math
from itertools import groupby
from typing import NamedTuple

import numpy as np

from referee.formats import joined, tick
from referee.statistics.contrast import INDEPENDENT, Cells, Contrast, Dependence, Interval
from referee.statistics.curves import Crossing, Gap, Law, crossing, power_law, signs
from referee.verdict import VOID, Variant, Verdict

LEAST_ERROR = 1e-6  # of a fraction whose items are not known


class Reference(NamedTuple):
    """Scores to draw beside a line, by place."""

    name: str
    scores: list[float]
    note: str  # what they are, below the figure


class Line(NamedTuple):
    """The verdicts along an axis."""

    axis: str
    x: list[float]  # the places
    labels: list[str]  # their names
    points: list[Verdict]  # by place
    level: float  # at which each place is tested, so that a statement about all of them is valid
    reference: Reference | None = None

    @property
    def variants(self) -> list[str]:
        """The variants that finished runs everywhere, in the order of the table."""
        common = set.intersection(*({variant.name for variant in point.ranking} for point in self.points))
        return [variant for variant in self.points[0].outcomes.variants if variant in common]

    def at(self, variant: str) -> list[Variant]:
        """Return a variant by place."""
        return [next(each for each in point.ranking if each.name == variant) for point in self.points]


# ---- where which variant is best


def best_where(line: Line) -> str:
    """Return which variants are best in which part of the axis."""
    kinds = [(_with(0, point), _with(1, point), not_beaten(point, line.level)) for point in line.points]
    parts = []
    for (none, one, top), group in groupby(range(len(kinds)), key=lambda k: kinds[k]):
        places = list(group)
        where = _range(line, places[0], places[-1])
        few = [f"{joined(names)} finished {word} run there" for names, word in ((none, "no"), (one, "one")) if names]
        but = f" ({joined(few)})" if few else ""
        compared = len(line.points[places[0]].outcomes.variants) - len(none) - len(one)
        if compared < 2:
            parts.append(f"{where} nothing is compared{but}")
        elif not top:
            parts.append(f"{where} the variants are not comparable{but}")
        elif len(top) == 1:
            (best,) = top
            pairs = [[pair for pair in line.points[k].pairs if pair.better.name == best] for k in places]
            leads = [min(pair.lead for pair in each if pair.difference is not None) for each in pairs]
            metric, digits = line.points[0].metric, max(point.digits for point in line.points)
            by = " to ".join(dict.fromkeys(metric.text(end, digits) for end in (min(leads), max(leads))))
            unit = " points" if metric.is_fraction else ""
            parts.append(f"{where} {best} is better than all others, ahead of the next by {by}{unit}{but}")
        elif len(top) == compared == 2:
            parts.append(f"{where} it is undecided whether {joined(top, 'or')} is better{but}")
        elif len(top) == compared:
            parts.append(f"{where} no variant is better than another{but}")
        else:
            parts.append(f"{where} no variant is better than {joined(top, 'or')}{but}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def not_beaten(point: Verdict, level: float) -> tuple[str, ...]:
    """Return the variants of several runs that no other is better than; none where they are not comparable."""
    if point.verdict == VOID:
        return ()
    worse = {p.worse.name for p in point.pairs if p.difference is not None and p.difference.adjusted < level}
    tested = {variant.name for variant in point.ranking if len(variant.runs) > 1}
    return tuple(variant for variant in point.outcomes.variants if variant in tested - worse)


def _with(runs: int, point: Verdict) -> tuple[str, ...]:
    """Return the variants with exactly `runs` finished runs at a place."""
    finished = {variant.name: len(variant.runs) for variant in point.ranking}
    return tuple(variant for variant in point.outcomes.variants if finished.get(variant, 0) == runs)


def _range(line: Line, first: int, last: int) -> str:
    labels, end = line.labels, len(line.labels) - 1
    if (first, last) == (0, end):
        return f"from {number(line.x[0])} to {labels[end]},"
    if first == last:
        return f"at {labels[first]},"
    if last - first == 1:
        return f"at {number(line.x[first])} and {labels[last]},"
    if first == 0:
        return f"up to {labels[last]},"
    if last == end:
        return f"from {labels[first]} on,"
    return f"from {number(line.x[first])} to {labels[last]},"


# ---- curves


def errors(line: Line, variant: str) -> np.ndarray | None:
    """Return the errors of a variant by place and seed, (K, S) with the seeds that all places have; None: no error."""
    variants = line.at(variant)
    shared = set.intersection(*({run.seed for run in each.runs} for each in variants))
    scores = [
        [score for run, score in zip(each.runs, each.scores, strict=True) if run.seed in shared] for each in variants
    ]
    return _as_error(np.array(scores), line.points[0])


def _as_error(scores: np.ndarray, point: Verdict) -> np.ndarray | None:
    """Return scores as errors above 0, of logarithms what they are of; None where they are none."""
    if point.metric.is_fraction:
        missed = 1 - scores if point.metric.mode == "max" else scores
        return np.maximum(missed, 0.5 / point.items if point.items > 1 else LEAST_ERROR)
    scores = np.exp(scores) if point.metric.is_log else scores
    return scores if point.metric.mode == "min" and (scores > 0).all() else None


def crossing_of(line: Line, a: str, b: str, pairs: int) -> tuple[Crossing | None, list[int]]:
    """Return where two variants cross, and which of them is better at each place: −1 the first, 1 the second."""
    gaps = []
    if untested(line, a, b):
        return None, []
    for point, *both in zip(line.points, line.at(a), line.at(b), strict=True):
        difference = _difference(point, a, b)
        first, second = (_as_error(np.array(each.score.mean), point) for each in both)
        if difference is None or first is None or second is None:
            return None, []
        variances = difference.seeds, difference.images, difference.freedom, difference.of_images
        gap = Gap(float(first), float(second), *variances)
        if point.metric.is_log:  # the difference is that of the logarithms
            gap = gap._replace(seeds=gap.seeds * gap.scale**2, images=gap.images * gap.scale**2)
        gaps.append(gap)
    level = line.level * len(line.points) / pairs  # of a pair at all places
    return crossing(line.x, gaps, level), signs(gaps, level)


def untested(line: Line, a: str, b: str) -> list[str]:
    """Return the places at which two variants are not comparable, or one of them has a single run."""
    pairs = zip(line.labels, line.points, strict=True)
    return [label for label, point in pairs if point.verdict == VOID or _difference(point, a, b) is None]


def _difference(point: Verdict, a: str, b: str) -> Contrast | None:
    return next(pair.difference for pair in point.pairs if {pair.better.name, pair.worse.name} == {a, b})


def interval_of(variant: Variant, dependence: Dependence = INDEPENDENT) -> Interval:
    """Return the mean score of a variant with its 95 % interval over seeds and test items."""
    if len(variant.runs) == 1:
        return Interval(variant.score.mean, math.nan, math.nan)
    mean, *ends = (variant.metric.sign * value for value in _mean(variant, dependence).interval)
    interval = Interval(mean, *sorted(ends))
    return interval.within(0, 1) if variant.metric.is_fraction else interval


def _mean(variant: Variant, dependence: Dependence) -> Contrast:
    return Cells([variant.outcomes], dependence=dependence).contrast({0: 1.0})


def law_of(line: Line, variant: str) -> Law | None:
    """Return the power law of a variant's error."""
    by_seed = errors(line, variant)
    if by_seed is None:
        return None
    pairs = zip(line.at(variant), line.points, strict=True)
    images = [_mean(each, point.outcomes.dependence).images for each, point in pairs]
    return power_law(line.x, by_seed, images)


def number(value: float) -> str:
    """Return a number of the axis: 1,078, or 5 M."""
    return f"{value:,.6g}" if abs(value) < 1e5 else tick(value)
