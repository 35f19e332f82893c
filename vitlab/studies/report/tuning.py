"""A report's section on tuning: with which values the variants are compared, and how surely they were chosen.

Of random trials, it has the curve of the best of k, and the numbers of trials at which one variant is better.
"""

from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import MaxNLocator
from referee.formats import NONE, SPACE, counted, joined, percent
from referee.report import drawing
from referee.report.document import Cell, Figure, Heading, Note, Part, Row, Table
from referee.report.drawing import Chart, Drawing, Layout
from referee.statistics.comparison import LEVEL

from vitlab.studies.file.format import as_yaml
from vitlab.studies.file.space import Tuning
from vitlab.studies.file.trials import Choice, Trial
from vitlab.studies.report.tuning_curves import lead, sensitivity, tuning_curve
from vitlab.studies.results.table import StudyResults

POINT = 0.01  # of accuracy: trials within it of the best count as good
FAIR = "Every variant tried the same values, and no test image was used."


def as_tuned(results: StudyResults) -> list[str]:
    """Return a sentence on the values of the compared variants; nothing without tuning."""
    tuning = results.study.tuning
    if tuning is None or not results.choices:
        return []
    names = joined(tuning.names)
    if tuning.within_seeds:
        return [
            f"Each seed chose its own {names} by its own tuning runs; the intervals include the noise of this choice."
        ]
    if tuning.trials:
        return ["Each variant is compared with its best settings of the search; the intervals hold this choice fixed."]
    name = f"{names} " if len(tuning.space) == 1 else ""  # of several settings, each value has its name
    by_value: dict[str, list[str]] = {}
    for choice in results.choices:
        by_value.setdefault(choice.chosen.text, []).append(choice.variant)
    if len(by_value) == 1:
        return [f"All variants are compared with {name}{next(iter(by_value))}, as tuned; the intervals hold it fixed."]
    values = joined([f"{value} ({joined(variants)})" for value, variants in by_value.items()])
    return [f"The variants are compared with {name}{values}, as tuned; the intervals hold this choice fixed."]


def tuning_section(results: StudyResults, drawing: Drawing | None) -> list[Part]:
    """Return the scores of all trials, and the chosen ones."""
    tuning = results.study.tuning
    if tuning is None or not results.choices:
        return []
    if tuning.trials:
        caption = (
            "The best of k trials. Line: mean validation score. Band: 95 % interval of its median, for all k at once. "
            "Dashes: mean test score of the trial that validation chooses."
        )
        return [*([Figure(drawing, caption)] if drawing else []), *_chosen_trials(results, tuning)]
    return _scores_by_seed(results, tuning) if tuning.within_seeds else _scores_of_all(results, tuning)


def _grid(results: StudyResults, tuning: Tuning, rows: list[Row]) -> Table:
    return Table("Tuning", [", ".join(tuning.space), *(trial.text for trial in results.choices[0].trials)], rows)


def _unit(results: StudyResults) -> str:
    return ", in %" if results.metric.is_accuracy else ""


def _scores_by_seed(results: StudyResults, tuning: Tuning) -> list[Part]:
    """Return the chosen values and the scores of a grid that each seed tried."""
    rows = [Row(f"{choice.variant}, seed {choice.seed}", _scores(choice, results)) for choice in results.choices]
    rows.sort(key=lambda row: list(results.study.variants).index(row.head.rpartition(", seed ")[0]))
    chosen = {(choice.variant, choice.seed): choice.chosen.text for choice in results.choices}
    seeds, title = results.study.seeds, "Chosen values by seed"
    values = [Row(variant, [chosen[variant, seed] for seed in seeds]) for variant in results.study.variants]
    return [
        Heading(title),
        Table(title, ["Variant", *(f"Seed {seed}" for seed in seeds)], values),
        Heading("Scores of the tuning runs"),
        _grid(results, tuning, rows),
        Note(
            f"Validation {results.metric.label} after the last epoch{_unit(results)}, of each seed's own tuning runs. "
            f"{FAIR} Bold: the value that the run of the comparison has. ≈: so near the best that the validation "
            "images do not tell them apart; of such values, the variants of a seed take one in common."
        ),
    ]


def _scores_of_all(results: StudyResults, tuning: Tuning) -> list[Part]:
    """Return the scores of a grid that was tried once for all seeds."""
    metric, choices = results.metric, results.choices
    error = metric.difference(max(choice.error for choice in choices), results.verdict.digits)
    seeds = choices[0].seeds
    of_seeds = f", mean over seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}" if seeds else ""
    rule = (
        f" ≈: within a standard error ({error}) of the variant's best value, and treated as equal to it; of such "
        "values, the variants take as few different ones as possible."
    )
    return [
        _grid(results, tuning, [Row(choice.variant, _scores(choice, results)) for choice in choices]),
        Note(
            f"Validation {metric.label} after the last epoch{_unit(results)}{of_seeds}. {FAIR} Bold: the value that "
            f"the variant was then trained with.{rule}"
        ),
    ]


def _scores(choice: Choice, results: StudyResults) -> list[Cell]:
    near = choice.ties if len(choice.ties) > 1 else []
    return [
        Cell(
            "failed"
            if trial.score is None
            else results.metric.text(trial.score, results.verdict.digits) + (f"{SPACE}≈" if trial in near else ""),
            bold=trial == choice.chosen,
        )
        for trial in choice.trials
    ]


def tuning_remarks(results: StudyResults) -> list[str]:
    """List what makes the chosen values doubtful."""
    tuning, lines = results.study.tuning, []
    if tuning is None or tuning.trials or not results.choices:
        return []
    name, seeds = joined(tuning.names), list(results.choices[0].seeds)
    if not tuning.within_seeds:
        if shared := [str(seed) for seed in seeds if seed in results.study.seeds]:
            lines.append(
                f"Seed{'s' if len(shared) > 1 else ''} {joined(shared)} of the comparison also tuned {name}: what "
                "chance gave these runs chose the values. Tune with other seeds."
            )
        if len(seeds) == 1:
            lines.append(
                f"{name} was tuned with a single seed: which value is best is largely chance, and equal architectures "
                "may differ in it. Three seeds are the default."
            )
    lines += _at_the_edge(results)
    for variant in results.study.variants:
        lines += _remarks_on(variant, [choice for choice in results.choices if choice.variant == variant], results)
    return lines


def _at_the_edge(results: StudyResults) -> list[str]:
    """Name all variants whose best value is at the edge of those tried."""
    named: list[tuple[str, str, str]] = []
    for variant in results.study.variants:
        if some := [choice for choice in results.choices if choice.variant == variant and choice.at_the_edge]:
            named.append((variant, _values(choice.best for choice in some), _seeds_of(some)))
    if len(named) == 1:
        ((variant, best, seeds),) = named
        return [f"The best value for {variant}, {best}, is at the edge of those tried{seeds and f' ({seeds})'}."]
    each = [f"{variant} ({best}{seeds and f', {seeds}'})" for variant, best, seeds in named]
    return [f"The best values are at the edge of those tried for {joined(each)}."] if each else []


def _seeds_of(choices: list[Choice]) -> str:
    """Return the seeds of choices by seed, like "seeds 1 and 2"; else nothing."""
    seeds = [str(choice.seed) for choice in choices if choice.seed is not None]
    return f"seed{'s' if len(seeds) > 1 else ''} {joined(seeds)}" if seeds else ""


def _remarks_on(variant: str, choices: list[Choice], results: StudyResults) -> Iterator[str]:
    if failed := [choice for choice in choices if any(trial.score is None for trial in choice.trials)]:
        seeds = _seeds_of(failed)
        values = _values(trial for choice in failed for trial in choice.trials if trial.score is None)
        yield f"Tuning {variant} failed with {values}{seeds and f' ({seeds})'}."
    for choice in choices:
        if len(choice.ties) > 1 and choice.seed is None:  # within seeds, the intervals include this noise
            error = results.metric.difference(choice.error, results.verdict.digits)
            shared = f" It has {choice.chosen.text} in common with others." if choice.chosen != choice.best else ""
            yield (
                f"Tuning does not tell {_values(choice.ties)} apart for {variant}: its best values are within a "
                f"standard error ({error}).{shared}"
            )


def _values(trials: Iterable[Trial]) -> str:
    return joined(list(dict.fromkeys(trial.text for trial in trials)))


class Scores(NamedTuple):
    """The scores of a variant's random trials, higher being better; a failed one has the worst of all variants."""

    validation: np.ndarray  # (trials,)
    test: np.ndarray
    failed: int


def scores_of(results: StudyResults) -> dict[str, Scores]:
    """Return the scores of each variant's random trials."""
    study = results.study
    if study.tuning is None or not study.tuning.trials or not results.choices:
        return {}
    scores = {
        choice.variant: results.metric.sign * np.array([(t.score, t.test) for t in choice.trials], dtype=float)
        for choice in results.choices
    }  # (trials, 2), nan where one failed
    worst = np.nanmin(np.concatenate([*scores.values()]), axis=0)
    found = {}
    for variant, own in scores.items():
        validation, test = np.where(np.isnan(own), worst, own).T
        found[variant] = Scores(validation, test, int(np.isnan(own[:, 0]).sum()))
    return found


def leads_by_trials(results: StudyResults) -> list[str]:
    """Return at which numbers of trials one variant is better than another, a sentence for each pair."""
    pairs = list(combinations(scores_of(results).items(), 2))
    return [_sentence(a, b, len(pairs)) for a, b in pairs]


def _sentence(a: tuple[str, Scores], b: tuple[str, Scores], pairs: int) -> str:
    gap, n = lead(a[1].validation, b[1].validation), len(a[1].validation)
    settled = gap.p * pairs < LEVEL
    parts = []
    for first, second, sign in ((a[0], b[0], 1), (b[0], a[0], -1)):
        k = 1 + np.flatnonzero(settled & (sign * gap.mean > 0))
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


def _chosen_trials(results: StudyResults, tuning: Tuning) -> list[Part]:
    """Return the settings that were chosen from random trials, and the sensitivity of each variant."""
    metric, scores = results.metric, scores_of(results)
    rows = [
        Row(
            choice.variant,
            [
                *(as_yaml(_short(value)) for value in choice.chosen.settings.values()),
                metric.text(choice.chosen.score or 0.0, results.verdict.digits),
                metric.text(choice.chosen.test or 0.0, results.verdict.digits),
                percent(sensitivity(scores[choice.variant].validation, POINT), 0) if metric.is_accuracy else NONE,
            ],
            list(results.study.variants).index(choice.variant),
        )
        for choice in results.choices
    ]
    failures = [f"{variant} {own.failed}" for variant, own in scores.items() if own.failed]
    failed = f" Failed trials ({', '.join(failures)}) count as the worst of all scores." if failures else ""
    return [
        Table("Tuning", ["Variant", *tuning.names, "Validation", "Test", "Near the best, % of trials"], rows),
        Note(
            f"{counted(len(scores[results.choices[0].variant].validation), 'trial')} of each variant, drawn the same "
            f"for every variant (random); a trial's seed is its own.{failed} The settings were chosen by validation, "
            "and no test image was used for it. Near the best: within one point of the variant's best validation "
            "score. Who is better with k trials is tested by exchanging the two variants' scores, at 0.05 for all k "
            "and all pairs together."
        ),
    ]


def _short(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def tuning_chart(results: StudyResults) -> Chart | None:
    """Return the chart of the best of k random trials; None without any."""
    metric, of_variants = results.metric, scores_of(results)
    if not of_variants:
        return None

    def draw(_: object, layout: Layout) -> Drawn:
        figure, (axes,) = drawing.panels_of(Layout(layout.width, 1), 1, 300)
        factor, ends = metric.sign * metric.scale, []
        ends_of_scale = (0.0, 1.0) if metric.is_accuracy else (-np.inf, np.inf)
        for index, (variant, scores) in enumerate(of_variants.items()):
            curve = tuning_curve(scores.validation, scores.test, *ends_of_scale)
            k = np.arange(1, len(curve.mean) + 1)
            drawing.draw_curve(axes, k, factor * curve.mean, factor * curve.low, factor * curve.high, variant, index)
            axes.plot(k, factor * curve.test, color=drawing.style_of(index)["color"], linestyle=drawing.DASHED)
            ends += [factor * curve.mean[0], factor * curve.mean[-1]]
        room = 0.6 * (max(ends) - min(ends)) + 1e-9
        axes.set_ylim(min(ends) - room, max(ends) + room)
        axes.set_xlabel("trials")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_title(metric.axis("validation"))
        drawing.put_legend(figure, axes, layout)
        return figure

    return Chart("tuning", f"Validation {metric.label} of the best of k trials for each variant.", draw)
