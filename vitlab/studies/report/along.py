"""The answers of a study with axes: which variant is best where, where two cross, and the law that errors follow."""

from collections.abc import Sequence
from itertools import combinations, groupby, product
from typing import NamedTuple

import numpy as np
from referee.formats import joined
from referee.statistics.comparison import LEVEL, Difference, p_value, step_down
from referee.statistics.curves import Crossing, Gap, Law, Level, crossing, power_law, signs
from referee.statistics.intervals import Interval, spread, t_interval

from vitlab.studies.axes import Axis
from vitlab.studies.format import tick
from vitlab.studies.metric import Metric
from vitlab.studies.report.remarks import objections
from vitlab.studies.report.verdict import verdict
from vitlab.studies.results import Pair, StudyResults
from vitlab.studies.run_results import VariantResult
from vitlab.studies.study import Study


class Line(NamedTuple):
    """The results along the numeric axis of a study, at one place of its other axis."""

    name: str  # of that place; empty without another axis
    axis: Axis
    points: list[StudyResults]  # by place
    level: float  # at which each place is tested, so that a statement about all of them is valid

    @property
    def x(self) -> list[float]:
        """The places."""
        return [place.x or 0.0 for place in self.axis.places]

    @property
    def labels(self) -> list[str]:
        """Their names."""
        return [place.label for place in self.axis.places]

    @property
    def variants(self) -> list[str]:
        """The variants that finished runs everywhere, in the order of the study."""
        common = set.intersection(*({result.variant for result in point.ranking} for point in self.points))
        return [variant for variant in self.points[0].study.variants if variant in common]

    def at(self, variant: str) -> list[VariantResult]:
        """Return the results of a variant by place."""
        return [next(r for r in point.ranking if r.variant == variant) for point in self.points]


def lines_of(study: Study, found: Sequence[StudyResults]) -> list[Line]:
    """Return the results of a grid along its numeric axis, one line for each place of the other axis."""
    numeric = next((axis for axis in study.along if axis.numeric), None)
    if numeric is None:
        return []
    lines: dict[str, list[StudyResults]] = {}
    for places, results in zip(product(*(axis.places for axis in study.along)), found, strict=True):
        other = ", ".join(place.label for axis, place in zip(study.along, places, strict=True) if not axis.numeric)
        lines.setdefault(other, []).append(results)
    level = min(results.level for results in found) / len(found)
    return [Line(name, numeric, points, level) for name, points in lines.items()]


# ---- where which variant is best


def answers(study: Study, found: Sequence[StudyResults]) -> list[str]:
    """Return the study's answers in sentences."""
    if not all(results.finished for results in found):
        return ["Some places have no finished run, so there is nothing to say about the axis."]
    lines = lines_of(study, found)
    if lines:
        return [f"{line.name}: {text}" if line.name else text for line in lines for text in [best_where(line)]]
    general = [in_general(found)] if study.along[0].name == "data" else []
    return [*(f"{results.study.place}: {verdict(results)}" for results in found), *general]


def best_where(line: Line) -> str:
    """Return which variants are best in which part of the axis."""
    kinds = [(_with(0, point), _with(1, point), not_beaten(point, line.level)) for point in line.points]
    parts = []
    for (none, one, top), group in groupby(range(len(kinds)), key=lambda k: kinds[k]):
        places = list(group)
        where = _range(line, places[0], places[-1])
        few = [f"{joined(names)} finished {word} run there" for names, word in ((none, "no"), (one, "one")) if names]
        but = f" ({joined(few)})" if few else ""
        compared = len(line.points[places[0]].study.variants) - len(none) - len(one)
        if compared < 2:
            parts.append(f"{where} nothing is compared{but}")
        elif not top:
            parts.append(f"{where} the variants are not comparable{but}")
        elif len(top) == 1:
            (best,) = top
            leads = [_lead(line.points[k], best) for k in places]
            metric, digits = line.points[0].metric, max(point.digits for point in line.points)
            by = " to ".join(dict.fromkeys(metric.text(end, digits) for end in (min(leads), max(leads))))
            unit = " points" if metric.is_accuracy else ""
            parts.append(f"{where} {best} is better than all others, ahead of the next by {by}{unit}{but}")
        elif len(top) == compared == 2:
            parts.append(f"{where} it is undecided whether {joined(top, 'or')} is better{but}")
        elif len(top) == compared:
            parts.append(f"{where} no variant is better than another{but}")
        else:
            parts.append(f"{where} no variant is better than {joined(top, 'or')}{but}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def not_beaten(point: StudyResults, level: float) -> tuple[str, ...]:
    """Return the variants of several runs that no other is better than; none where they are not comparable."""
    if objections(point):
        return ()
    worse = {pair.worse.name for pair in point.pairs if _settled(pair, level)}
    tested = {result.variant for result in point.ranking if len(result.runs) > 1}
    return tuple(variant for variant in point.study.variants if variant in tested - worse)


def _settled(pair: Pair, level: float) -> bool:
    return pair.difference is not None and pair.difference.adjusted < level


def _with(runs: int, point: StudyResults) -> tuple[str, ...]:
    """Return the variants with exactly `runs` finished runs at a place."""
    finished = {result.variant: len(result.runs) for result in point.ranking}
    return tuple(variant for variant in point.study.variants if finished.get(variant, 0) == runs)


def _lead(point: StudyResults, best: str) -> float:
    """Return by how much a variant leads the next one that it was tested against."""
    return min(pair.lead for pair in point.pairs if pair.better.name == best and pair.difference is not None)


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


def in_general(found: Sequence[StudyResults]) -> str:
    """Return what generalizes over data sets: they are a sample, and a lead is tested by Student's t over them."""
    over = f"over these {len(found)} data sets as a sample of others"
    void = [results.study.place for results in found if objections(results)]
    if void:
        return f"In general, {over}: nothing, since the variants are not comparable on {joined(void)}."
    lost = {variant for results in found for variant in _with(0, results)}
    metric, variants = found[0].metric, [variant for variant in found[0].study.variants if variant not in lost]
    pairs = list(combinations(variants, 2))
    leads = [[_score(results, a) - _score(results, b) for results in found] for a, b in pairs]
    freedom = len(found) - 1
    step = max(1 / len(results.labels) for results in found) if metric.is_accuracy else 0.0
    variances = [spread(np.array(each), step) ** 2 / len(each) for each in leads]
    p = [p_value(float(np.mean(each)), own, 0.0, freedom) for each, own in zip(leads, variances, strict=True)]
    parts = []
    for (a, b), each, own in zip(pairs, leads, step_down(p, len(variants)), strict=True):
        if own < LEVEL:
            interval = t_interval(each, step)
            first, second = (a, b) if metric.sign * interval.mean > 0 else (b, a)
            digits = max(results.digits for results in found)
            low, mean, high = (metric.text(value, digits) for value in sorted(map(abs, interval)))
            parts.append(f"{first} is better than {second} by {mean} ({low} to {high})")
    but = f" {joined(sorted(lost))} finished no run on some of them." if lost else ""
    return f"In general, {over}: {'; '.join(parts) or 'no variant is better than another'}.{but}"


def _score(results: StudyResults, variant: str) -> float:
    return next(result.score.mean for result in results.ranking if result.variant == variant)


# ---- curves


def errors(line: Line, variant: str) -> np.ndarray | None:
    """Return the errors of a variant by place and seed, (K, S) with the seeds that all places have; None: no error."""
    metric = line.points[0].metric
    results = line.at(variant)
    shared = set.intersection(*({run.run.seed for run in result.runs} for result in results))
    scores = np.array([[run.score for run in result.runs if run.run.seed in shared] for result in results])
    if metric.is_accuracy:
        return np.maximum(1 - scores, 0.5 / len(line.points[0].labels))
    return scores if metric.mode == "min" and (scores > 0).all() else None


def crossing_of(line: Line, a: str, b: str, pairs: int) -> tuple[Crossing | None, list[int]]:
    """Return where two variants cross, and which of them is better at each place: −1 the first, 1 the second."""
    gaps = []
    if untested(line, a, b):
        return None, []
    for point in line.points:
        difference = _difference(point, a, b)
        first, second = (_error(point, variant) for variant in (a, b))
        if difference is None or first is None or second is None:
            return None, []
        gaps.append(Gap(first, second, difference.seeds, difference.images, difference.freedom))
    level = line.level * len(line.points) / pairs  # of a pair at all places
    return crossing(line.x, gaps, level), signs(gaps, level)


def untested(line: Line, a: str, b: str) -> list[str]:
    """Return the places at which two variants are not comparable, or one of them has a single run."""
    pairs = zip(line.labels, line.points, strict=True)
    return [label for label, point in pairs if objections(point) or _difference(point, a, b) is None]


def _difference(point: StudyResults, a: str, b: str) -> Difference | None:
    return next(pair.difference for pair in point.pairs if {pair.better.name, pair.worse.name} == {a, b})


def _error(point: StudyResults, variant: str) -> float | None:
    score, metric = _score(point, variant), point.metric
    if metric.is_accuracy:
        return max(1 - score, 0.5 / len(point.labels))
    return score if metric.mode == "min" and score > 0 else None


def interval_of(result: VariantResult, metric: Metric) -> Interval:
    """Return the mean score of a variant with its 95 % interval over seeds and test images."""
    interval = Interval(*(metric.sign * value for value in Level.of(result.outcomes).interval))
    low, high = sorted(interval[1:])
    whole = Interval(interval.mean, low, high)
    return whole.within(0, 1) if metric.is_accuracy else whole


def law_of(line: Line, variant: str) -> Law | None:
    """Return the power law of a variant's error."""
    by_seed = errors(line, variant)
    if by_seed is None:
        return None
    return power_law(line.x, by_seed, [Level.of(result.outcomes).images for result in line.at(variant)])


def number(value: float) -> str:
    """Return a number of the axis: 1,078, or 5 M."""
    return f"{value:,.6g}" if abs(value) < 1e5 else tick(value)
