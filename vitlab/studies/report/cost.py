"""What the variants cost by the logs of their runs, and how they were tuned: tables, and what qualifies them."""

import math
from collections.abc import Iterable, Mapping
from statistics import fmean, median
from typing import Any

from referee.formats import NONE, SPACE, counted, joined, percent
from referee.report.document import Cell, Figure, Heading, Note, Part, Row, Table
from referee.report.drawing import Drawing

from vitlab.studies.file.format import clock, engineering
from vitlab.studies.file.study import BUDGET_TOLERANCE, Choice, Trial
from vitlab.studies.report.figures import against_cost
from vitlab.studies.results import StudyResults, VariantResult

COSTLIER = 1.5  # times the cost of a variant that it beats, from which a winner's cost stands beside the headline
TIME = "training time"
BUDGETS = {"epochs": "epochs", "images": "images seen", "flops": "training FLOPs"}
UNSTEADY = 1.25  # third quartile of the epochs' images/s over the first, above which they are not reliable


def cost_remarks(results: StudyResults) -> list[str]:
    """List why speeds are unreliable, and where the runs contradict the budget."""
    lines = speed_remarks(results)
    for result in results.ranking:
        share = share_of_budget(result, results)
        if share is not None and abs(share - 1) > BUDGET_TOLERANCE:
            lines.append(f"{result.variant} spent {percent(share, 0)}{SPACE}% of its budget of {results.study.budget}.")
    return lines


def winner_costs(results: StudyResults) -> list[str]:
    """Name what the winner costs, where it is more than COSTLIER times what a variant costs that it beats."""
    settled = [pair for pair in results.verdict.pairs if pair.settled]
    beaten = {pair.worse.name for pair in settled if pair.better.name == results.ranking[0].variant}
    if not beaten:
        return []
    own = _costs_of(results.ranking[0])
    others = [(result.variant, _costs_of(result)) for result in results.ranking if result.variant in beaten]
    parts: dict[str, str] = {}  # by quantity, with those that cost less
    cheaper: dict[str, str] = {}
    for what, value in own.items():
        if less := {name: costs[what] for name, costs in others if what in costs and value > COSTLIER * costs[what]}:
            show = clock if what == TIME else engineering
            against = " to ".join(dict.fromkeys(map(show, (min(less.values()), max(less.values())))))
            parts[what], cheaper[what] = f"{what} {show(value)} instead of {against}", joined([*less])
    if not parts:
        return []
    before = ", apart from the trainings that weights come from" if results.context.compute else ""
    equal = ""
    if results.study.budget and not results.study.frozen:  # a frozen variant takes no epochs
        equal = f" The budget was equal in {BUDGETS[results.study.budget.kind]}{before}."
    than = f" than {cheaper.popitem()[1]}" if len({*cheaper.values()}) == 1 else ""
    each = [part if than else f"{part} of {cheaper[what]}" for what, part in parts.items()]
    return [f"{results.ranking[0].variant} costs more{than}: {'; '.join(each)}.{equal}"]


def _costs_of(result: VariantResult) -> dict[str, float]:
    costs = {"FLOPs per image": result.cost("flops"), "parameters": result.cost("parameters")}
    costs |= {"training FLOPs": flops_of(result) or math.nan, TIME: result.mean("seconds")}
    return {name: value for name, value in costs.items() if not math.isnan(value)}


def speed_remarks(results: StudyResults) -> list[str]:
    speeds = {result.variant: result.speed for result in results.ranking}
    unsteady = [name for name, speed in speeds.items() if speed and speed[2] > UNSTEADY * speed[0]]
    why = "differ by more than a quarter between epochs, as where other programs disturb the runs."
    return [f"Images/s are unreliable: those of {joined(unsteady)} {why}"] if unsteady else []


def flops_of(result: VariantResult) -> float | None:
    """Return the training FLOPs of a run, mean over seeds; of a frozen encoder, of one forward pass of each image."""
    per_image = [run.cost("flops") if result.is_frozen else run.train_flops or math.nan for run in result.runs]
    total = fmean(flops * run.images_seen for flops, run in zip(per_image, result.runs, strict=True))
    return None if math.isnan(total) else total


def share_of_budget(result: VariantResult, results: StudyResults) -> float | None:
    """Return the FLOPs or images that the runs of a variant spent over those that they were to; else None."""
    budget = results.study.budget
    if budget is None or budget.kind == "epochs" or (result.is_frozen and budget.kind == "images"):
        return None
    spent = flops_of(result) if budget.kind == "flops" else fmean(run.images_seen for run in result.runs)
    return None if spent is None else spent / budget.amount / (results.study.folds or 1)  # which train one model each


def cost_section(results: StudyResults, drawings: Mapping[str, Drawing]) -> list[Part]:
    metric, of_variants, of_runs = results.metric, list[Row](), list[Row]()
    shares = {result.variant: share_of_budget(result, results) for result in results.ranking}
    spent = ["Of the budget"] if any(share is not None for share in shares.values()) else []
    for result in results.ranking:
        first, speed, share = result.runs[0], result.speed, shares[result.variant]
        waits = [wait for run in result.runs for wait in run.by_epoch("data_wait")]
        cells = [
            metric.text(result.score.mean, results.verdict.digits),
            _shown(result.cost("parameters")),
            _shown(result.cost("flops")),
            f"{speed[1]:,.0f} [{speed[0]:,.0f},{SPACE}{speed[2]:,.0f}]" if speed else NONE,
            f"{percent(median(waits), 0)}{SPACE}%" if waits else NONE,
            NONE if math.isnan(inference := result.cost("inference_images_per_second")) else f"{inference:,.0f}",
            _shown(result.cost("train_peak_bytes"), "B"),
            _shown(result.cost("inference_peak_bytes"), "B"),
        ]
        of_variants.append(Row(result.variant, cells, result.index))
        cells = [
            str(first.run.epochs),
            f"{first.images_seen:,}",
            _shown(flops_of(result) or math.nan),
            clock(result.mean("seconds")),
            *([NONE if share is None else f"{percent(share, 0)}{SPACE}%"] if spent else []),
            _shown(result.cost("train_joules") / max(1, first.images_seen)),
        ]
        of_runs.append(Row(result.variant, cells, result.index))
    speeds = ["Training\nimages/s", "Waiting\nfor data", "Inference\nimages/s"]
    memory = ["Peak memory\ntraining", "Peak memory\ninference"]
    columns = ["Run of", "Epochs", "Images seen", "Training FLOPs", "Training time", *spent, "Energy, J/image"]
    return [
        Figure(
            drawings[against_cost(metric)],
            f"Bar: 95 % interval over seeds. Dashed: the Pareto front, variants that no other beats in {metric.label} "
            "or cost without losing in the other.",
        ),
        Table("Cost", ["Variant", metric.column, "Parameters", "FLOPs / image", *speeds, *memory], of_variants),
        Table("Cost of a run", columns, of_runs),
        _meaning(results),
    ]


def _shown(value: float, unit: str = "") -> str:
    return NONE if math.isnan(value) else engineering(value, unit)


def _meaning(results: StudyResults) -> Part:
    runs = [run for result in results.ranking for run in result.runs]

    def of_all(values: Iterable[Any]) -> str:
        return " or ".join(dict.fromkeys(str(value) for value in values if value is not None))

    device, threads, torch, precision = (
        of_all(run.environment.get(key) for run in runs) for key in ("device", "threads", "torch", "precision")
    )
    batches = of_all(run.run.config.get("data", {}).get("init_args", {}).get("batch_size") for run in runs)
    on = f"{device}, threads: {threads}" if threads else device
    jobs = f", up to {counted(results.study.jobs, 'run')} at a time" if results.study.jobs else ""
    before = ""
    if any(run.seconds_before for run in results.finished):
        before = ", and of the runs that they start from; images seen and training FLOPs leave those out"
    return Note(
        f"Logged by the runs on {on}, torch {torch}, precision {precision}, batches of {batches}{jobs}. Training "
        "images/s are of one device, with loading, without validation and checkpoints: the median over the epochs of "
        "all seeds after the first of each, in brackets the quartiles. Inference: the encoder alone, on batches in "
        "memory. FLOPs count a multiply-add as two, those of training without the optimizer. Peak memory is that of "
        "all tensors; on a CPU, the growth of the process. Energy is that of the whole device, runs beside it "
        f"included. Training time is wall-clock time, with loading and validation{before}. A dash: not logged."
    )


# ---- tuning

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
