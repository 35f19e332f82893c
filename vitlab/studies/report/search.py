"""A report's section on a search: how good each variant is after k trials, and how much the settings matter."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import MaxNLocator
from referee.formats import NONE, counted, percent
from referee.report import drawing
from referee.report.document import Figure, Note, Part, Row, Table
from referee.report.drawing import Chart, Drawing, Layout
from referee.statistics.comparison import LEVEL

from vitlab.studies.format import as_yaml
from vitlab.studies.metric import Metric
from vitlab.studies.results import StudyResults
from vitlab.studies.statistics.tuning_curves import Curve, lead, sensitivity, tuning_curve

POINT = 0.01  # of accuracy: trials within it of the best count as good


class Scores(NamedTuple):
    """The scores of a variant's trials, higher being better; a failed trial has the worst score of all variants."""

    validation: list[float]
    test: list[float] | None  # None where trials were pruned
    failed: int


def scores_of(results: StudyResults) -> list[Scores]:
    """Return the scores of each variant's trials."""
    sign, searched = results.metric.sign, results.searched
    pruned = results.study.search is not None and results.study.search.after is not None

    def filled(scores: Sequence[float | None], of_all: Sequence[Sequence[float | None]]) -> list[float]:
        worst = min(sign * score for each in of_all for score in each if score is not None)
        return [worst if score is None else sign * score for score in scores]

    validation, test = [each.validation for each in searched], [each.test for each in searched]
    return [
        Scores(filled(own, validation), None if pruned else filled(tested, test), own.count(None))
        for own, tested in zip(validation, test, strict=True)
    ]


def curve_of(scores: Scores, metric: Metric) -> Curve:
    """Return the curve of the best of k trials."""
    worst, best = (0.0, 1.0) if metric.is_accuracy else (-np.inf, np.inf)
    return tuning_curve(scores.validation, scores.test, worst, best)


def budgets(results: StudyResults) -> list[str]:
    """Return at which numbers of trials one variant is better than another, a sentence for each pair."""
    if not results.searched or results.study.search is None:
        return []
    named = zip([each.variant for each in results.searched], scores_of(results), strict=True)
    pairs = list(combinations(named, 2))
    return [_sentence(a, b, len(pairs), results.study.search.shared) for a, b in pairs]


def _sentence(a: tuple[str, Scores], b: tuple[str, Scores], pairs: int, shared: bool) -> str:
    found, n = lead(a[1].validation, b[1].validation, shared), len(a[1].validation)
    settled = found.p * pairs < LEVEL
    parts = []
    for first, second, sign in ((a[0], b[0], 1), (b[0], a[0], -1)):
        k = 1 + np.flatnonzero(settled & (sign * found.mean > 0))
        if not len(k):
            continue
        if len(k) == n:
            where = f"at every number of trials up to {n}"
        elif k[-1] == n and len(k) == n - k[0] + 1:
            where = f"from {counted(int(k[0]), 'trial')} on"
        elif k[0] == 1 and len(k) == k[-1]:
            where = f"up to {counted(int(k[-1]), 'trial')}"
        else:
            where = f"at some numbers of trials from {k[0]} to {k[-1]}"
        parts.append(f"{first} is better than {second} {where}")
    if not parts:
        return f"{a[0]} and {b[0]} are not distinguished at any number of trials."
    return f"{'; '.join(parts)}."


def search_section(results: StudyResults, drawing: Drawing | None) -> list[Part]:
    """Return the curves of the search, the chosen settings and the sensitivity."""
    searched, search = results.searched, results.study.search
    if search is None or not searched:
        return []
    metric, digits = results.metric, results.digits
    rows, scores = [], scores_of(results)
    for each, own in zip(searched, scores, strict=True):
        i = each.chosen
        test = each.test[i]
        good = sensitivity(own.validation, POINT) if metric.is_accuracy else None
        rows.append(
            Row(
                each.variant,
                [
                    *(as_yaml(_short(each.settings[i][key])) for key in search.space),
                    metric.text(each.validation[i] or 0.0, digits),
                    NONE if test is None else metric.text(test, digits),
                    NONE if good is None else percent(good, 0),
                ],
                list(results.study.variants).index(each.variant),
            )
        )
    names = [key.rpartition(".")[2] for key in search.space]
    columns = ["Variant", *names, "Validation", "Test", "Near the best, % of trials"]
    drawn = "the same for every variant" if search.shared else "by its own earlier trials"
    pruned = ""
    if search.after is not None:
        epochs = counted(search.after, "epoch")
        pruned = f" After {epochs} the best {search.keep} of each variant went on; the others count as they were then."
    failures = [f"{each.variant} {own.failed}" for each, own in zip(searched, scores, strict=True) if own.failed]
    failed = f" Failed trials ({', '.join(failures)}) count as the worst of all scores." if failures else ""
    parts: list[Part] = []
    if drawing is not None:
        parts.append(
            Figure(
                drawing,
                "The best of k trials. Line: mean validation score. Band: 95 % interval of its median, for all k at "
                "once. Dashes: mean test score of the trial that validation chooses.",
            )
        )
    return [
        *parts,
        Table("Search", columns, rows),
        Note(
            f"{counted(search.trials, 'trial')} of each variant, drawn {drawn} ({search.sampler}); a trial's seed is "
            f"its own.{pruned}{failed} The settings were chosen by validation, and no test image was used for it. Near "
            "the best: within one point of the variant's best validation score. Who is better with k trials is tested "
            "by exchanging the two variants' scores, at 0.05 for all k and all pairs together."
        ),
    ]


def _short(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def search_chart(results: StudyResults) -> Chart | None:
    """Return the chart of the curves; None without a search."""
    metric = results.metric
    if not results.searched:
        return None

    def draw(_: object, layout: Layout) -> Drawn:
        figure, (axes,) = drawing.panels_of(Layout(layout.width, 1), 1, 300)
        factor, ends = metric.sign * metric.scale, []
        for each, scores in zip(results.searched, scores_of(results), strict=True):
            index, curve = list(results.study.variants).index(each.variant), curve_of(scores, metric)
            k = np.arange(1, len(curve.mean) + 1)
            drawing.draw_curve(
                axes, k, factor * curve.mean, factor * curve.low, factor * curve.high, each.variant, index
            )
            if curve.test is not None:
                axes.plot(k, factor * curve.test, color=drawing.style_of(index)["color"], linestyle=drawing.DASHED)
            ends += [factor * curve.mean[0], factor * curve.mean[-1]]
        room = 0.6 * (max(ends) - min(ends)) + 1e-9
        axes.set_ylim(min(ends) - room, max(ends) + room)
        axes.set_xlabel("trials")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_title(metric.axis("validation"))
        drawing.put_legend(figure, axes, layout)
        return figure

    return Chart("search", f"Validation {metric.label} of the best of k trials for each variant.", draw)
