"""A report's section on tuning: with which values the variants are compared, and how surely they were chosen."""

from collections.abc import Iterable

from referee.formats import SPACE, joined
from referee.report.document import Cell, Heading, Note, Part, Row, Table

from vitlab.studies.file.variants import Choice, Trial
from vitlab.studies.results.table import StudyResults

FAIR = "Every variant tried the same values, and no test image was used."


def as_tuned(results: StudyResults) -> list[str]:
    """Return a sentence on the values of the compared variants; nothing without tuning."""
    tuning = results.study.tuning
    if tuning is None or not results.choices:
        return []
    names = joined(tuning.names)
    if tuning.within_seeds:
        noise = "the intervals include the noise of this choice"
        return [f"Each seed chose its own {names} by its own tuning runs; {noise}."]
    name = f"{names} " if len(tuning.space) == 1 else ""  # of several settings, each value has its name
    by_value: dict[str, list[str]] = {}
    for choice in results.choices:
        by_value.setdefault(choice.chosen.text, []).append(choice.variant)
    if len(by_value) == 1:
        return [f"All variants are compared with {name}{next(iter(by_value))}, as tuned; the intervals hold it fixed."]
    values = joined([f"{value} ({joined(variants)})" for value, variants in by_value.items()])
    return [f"The variants are compared with {name}{values}, as tuned; the intervals hold this choice fixed."]


def tuning_section(results: StudyResults) -> list[Part]:
    tuning, metric, choices = results.study.tuning, results.metric, results.choices
    if tuning is None or not choices:
        return []
    columns = [", ".join(tuning.space), *(trial.text for trial in choices[0].trials)]
    note = f"Validation {metric.label} after the last epoch{', in %' * metric.is_fraction}"
    if not tuning.within_seeds:
        error = metric.difference(max(choice.error for choice in choices), results.verdict.digits)
        seeds = f"seed{'s' if len(choices[0].seeds) > 1 else ''} {', '.join(map(str, choices[0].seeds))}"
        return [
            Table("Tuning", columns, [Row(choice.variant, _scores(choice, results)) for choice in choices]),
            Note(
                f"{note}, mean over {seeds}. {FAIR} Bold: the value that the variant was then trained with. ≈: within "
                f"a standard error ({error}) of the variant's best value, and treated as equal to it; of such values, "
                "the variants take as few different ones as possible."
            ),
        ]
    rows = [
        Row(f"{choice.variant}, seed {choice.seed}", _scores(choice, results))
        for variant in results.study.variants
        for choice in choices
        if choice.variant == variant
    ]
    chosen = {(choice.variant, choice.seed): choice.chosen.text for choice in choices}
    of_study, title = results.study.seeds, "Chosen values by seed"
    values = [Row(variant, [chosen[variant, seed] for seed in of_study]) for variant in results.study.variants]
    return [
        Heading(title),
        Table(title, ["Variant", *(f"Seed {seed}" for seed in of_study)], values),
        Heading("Scores of the tuning runs"),
        Table("Tuning", columns, rows),
        Note(
            f"{note}, of each seed's own tuning runs. {FAIR} Bold: the value that the run of the comparison has. ≈: so "
            "near the best that the validation images do not tell them apart; of such values, the variants of a seed "
            "take one in common."
        ),
    ]


def _scores(choice: Choice, results: StudyResults) -> list[Cell]:
    near = choice.ties if len(choice.ties) > 1 else []
    cells = []
    for trial in choice.trials:
        text = "failed" if trial.score is None else results.metric.text(trial.score, results.verdict.digits)
        cells.append(Cell(text + f"{SPACE}≈" * (trial in near), bold=trial == choice.chosen))
    return cells


def tuning_remarks(results: StudyResults) -> list[str]:
    tuning, lines = results.study.tuning, []
    if tuning is None or not results.choices:
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
    edges: list[tuple[str, str, str]] = []  # variants whose best value is at the edge of those tried
    of_variant = {name: [each for each in results.choices if each.variant == name] for name in results.study.variants}
    for variant, choices in of_variant.items():
        if some := [choice for choice in choices if choice.at_the_edge]:
            edges.append((variant, _values(choice.best for choice in some), _seeds_of(some)))
    if edges:
        each = [f"{variant} ({best}{of_seeds and f', {of_seeds}'})" for variant, best, of_seeds in edges]
        best = "value is" if len(edges) == 1 else "values are"
        lines.append(f"The best {best} at the edge of those tried for {joined(each)}.")
    for variant, choices in of_variant.items():
        if failed := [choice for choice in choices if any(trial.score is None for trial in choice.trials)]:
            which = _seeds_of(failed)
            tried = _values(trial for choice in failed for trial in choice.trials if trial.score is None)
            lines.append(f"Tuning {variant} failed with {tried}{which and f' ({which})'}.")
        for choice in choices:
            if len(choice.ties) > 1 and choice.seed is None:  # within seeds, the intervals include this noise
                error = results.metric.difference(choice.error, results.verdict.digits)
                common = f" It has {choice.chosen.text} in common with others." if choice.chosen != choice.best else ""
                lines.append(
                    f"Tuning does not tell {_values(choice.ties)} apart for {variant}: its best values are within a "
                    f"standard error ({error}).{common}"
                )
    return lines


def _seeds_of(choices: list[Choice]) -> str:
    seeds = [str(choice.seed) for choice in choices if choice.seed is not None]
    return f"seed{'s' if len(seeds) > 1 else ''} {joined(seeds)}" if seeds else ""


def _values(trials: Iterable[Trial]) -> str:
    return joined(list(dict.fromkeys(trial.text for trial in trials)))
