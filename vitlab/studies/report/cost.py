"""What the variants cost, in the report: tables, how it was measured, and where runs and measurement disagree."""

import math
from collections.abc import Mapping
from statistics import fmean

from referee.formats import NONE, SPACE, counted, joined, percent
from referee.report.document import Cell, Figure, Note, Part, Row, Table
from referee.report.drawing import Drawing

from vitlab.evaluation.cost import Cost, doubts
from vitlab.studies.file.budget import REFUSED
from vitlab.studies.file.format import clock, engineering, speed
from vitlab.studies.report.figures import against_cost
from vitlab.studies.results.run import VariantResult
from vitlab.studies.results.table import StudyResults

COSTLIER = 1.5  # times the cost of a variant that it beats, from which a winner's cost stands beside the headline
TIME = "training time"
BUDGETS = {"epochs": "epochs", "images": "images seen", "flops": "FLOPs"}
SLOWER = 0.2  # of the measured images/s, above which another speed of the runs is remarked on


def cost_remarks(results: StudyResults) -> list[str]:
    """List why costs are missing or unreliable, and where the runs contradict them or the budget."""
    lines, budget = speed_remarks(results), results.study.budget
    for result in results.ranking:
        share = share_of_budget(result, results)
        if budget is not None and share is not None and abs(share - 1) > REFUSED:
            lines.append(f"{result.variant} spent {percent(share, 0)}{SPACE}% of its budget of {budget}.")
    return lines


def costlier(results: StudyResults) -> list[str]:
    """Name what the winner costs, where it is more than COSTLIER times what a variant costs that it beats."""
    settled = [pair for pair in results.verdict.pairs if pair.settled]
    beaten = {pair.worse.name for pair in settled if pair.better.name == results.ranking[0].variant}
    if not beaten:
        return []
    own = _costs_of(results.ranking[0], results)
    others = [(result.variant, _costs_of(result, results)) for result in results.ranking if result.variant in beaten]
    parts, cheaper = list[str](), list[list[str]]()
    for what, value in own.items():
        if less := {name: costs[what] for name, costs in others if what in costs and value > COSTLIER * costs[what]}:
            show = clock if what == TIME else engineering
            against = " to ".join(dict.fromkeys(map(show, (min(less.values()), max(less.values())))))
            parts.append(f"{what} {show(value)} instead of {against}")
            cheaper.append([*less])
    if not parts:
        return []
    budget = None if results.study.frozen else results.study.budget  # a frozen variant takes no epochs
    before = ", apart from the trainings that weights come from" if results.context.compute else ""
    kind = f"{'training ' * (budget.kind == 'flops')}{BUDGETS[budget.kind]}" if budget else ""
    equal = f" The budget was equal in {kind}{before}." if budget else ""
    than = f" than {joined(cheaper[0])}" if all(names == cheaper[0] for names in cheaper) else ""
    if not than:
        parts = [f"{part} of {joined(names)}" for part, names in zip(parts, cheaper, strict=True)]
    return [f"{results.ranking[0].variant} costs more{than}: {'; '.join(parts)}.{equal}"]


def _costs_of(result: VariantResult, results: StudyResults) -> dict[str, float]:
    """Return what a variant costs, by quantity, as far as it is known."""
    cost, flops = results.costs.get(result.variant), flops_of(result, results.costs.get(result.variant))
    measured = {"FLOPs per image": float(cost.flops), "parameters": float(cost.parameters)} if cost else {}
    return measured | ({} if flops is None else {"training FLOPs": flops}) | {TIME: result.mean("seconds")}


def speed_remarks(results: StudyResults) -> list[str]:
    """List why costs are missing or unreliable, and where the runs contradict them."""
    lines = doubts(results.costs)
    lines += [f"{variant}: its cost could not be measured ({why})." for variant, why in results.cost_failures.items()]
    compiled, eager = (", ".join(n for n, c in results.costs.items() if c.compiled is how) for how in (True, False))
    if compiled and eager:
        lines.append(
            f"The cost of {compiled} was measured compiled, that of {eager} eager. Compiling speeds architectures up "
            "unequally; compare images/s of one mode."
        )
    apart = []
    for result in results.ranking:
        cost, speed = results.costs.get(result.variant), result.mean("images_per_second")
        if cost is None or math.isnan(speed):
            continue
        measured = cost.train_images_per_second / cost.mean_share  # small images in proportion to their FLOPs
        if abs(speed / measured - 1) > SLOWER:
            change = percent(speed / measured - 1, 0)
            waiting = percent(fmean(run.by_epoch("data_wait").median() for run in result.runs), 0)
            apart.append(
                f"{result.variant} {speed:,.0f} instead of {measured:,.0f} images/s "
                f"({change}{SPACE}%; waiting for data: {waiting}{SPACE}% of the time)"
            )
    if apart:
        lines.append(
            f"The runs trained at another speed than was measured: {'; '.join(apart)}. Trust the speed of the runs, "
            "and compare variants only if nothing else disturbed them."
        )
    return lines


def flops_of(result: VariantResult, cost: Cost | None) -> float | None:
    """Return the training FLOPs of a run, mean over seeds: as it counted them, or as they were measured.

    Those of a frozen encoder are of one forward pass of each image.
    """
    measured = None if cost is None else cost.flops if result.is_frozen else cost.train_flops
    per_image = [run.train_flops or measured for run in result.runs]
    known = [flops * run.images_seen for flops, run in zip(per_image, result.runs, strict=True) if flops]
    return fmean(known) if len(known) == len(result.runs) else None


def share_of_budget(result: VariantResult, results: StudyResults) -> float | None:
    """Return the FLOPs or images that the runs of a variant spent over those that they were to; else None."""
    budget = results.study.budget
    if budget is None or budget.kind == "epochs" or (result.is_frozen and budget.kind == "images"):
        return None
    cost = results.costs.get(result.variant)
    spent = flops_of(result, cost) if budget.kind == "flops" else fmean(run.images_seen for run in result.runs)
    return None if spent is None else spent / budget.amount / (results.study.folds or 1)  # which train one model each


def cost_section(results: StudyResults, drawings: Mapping[str, Drawing]) -> list[Part]:
    """Return the figure and the tables of costs, with a note on how they were measured."""
    metric = results.metric
    return [
        Figure(
            drawings[against_cost(metric)],
            f"Bar: 95 % interval over seeds. Dashed: the Pareto front, variants that no other beats in {metric.label} "
            "or cost without losing in the other.",
        ),
        _table_of_variants(results),
        _table_of_runs(results),
        *_how_it_was_measured(results),
    ]


def _table_of_variants(results: StudyResults) -> Table:
    rows = []
    for result in results.ranking:
        cost, measured_speed = results.costs.get(result.variant), result.mean("images_per_second")
        score = results.metric.text(result.score.mean, results.verdict.digits)
        in_runs = NONE if math.isnan(measured_speed) else f"{measured_speed:,.0f}"
        cells = ["not measured", NONE, NONE, in_runs]
        if cost is not None:
            cells = [
                engineering(cost.parameters),
                engineering(cost.flops),
                NONE if result.is_frozen else speed(cost.train_images_per_second, cost.train_quartiles),
                in_runs,
                speed(cost.inference_images_per_second, cost.inference_quartiles),
                NONE if result.is_frozen else engineering(cost.train_peak_bytes, "B"),
                engineering(cost.inference_peak_bytes, "B"),
            ]
        rows.append(row_of(result, score, *cells))
    speeds = ["Training\nimages/s", "In the runs\nimages/s", "Inference\nimages/s"]
    memory = ["Peak memory\ntraining", "Peak memory\ninference"]
    return Table("Cost", ["Variant", results.metric.column, "Parameters", "FLOPs / image", *speeds, *memory], rows)


def _table_of_runs(results: StudyResults) -> Table:
    rows, shares = [], {result.variant: share_of_budget(result, results) for result in results.ranking}
    measured = any(share is not None for share in shares.values())
    for result in results.ranking:
        cost, first, share = results.costs.get(result.variant), result.runs[0], shares[result.variant]
        flops = flops_of(result, cost)
        energy = (cost.train_joules_per_image, cost.inference_joules_per_image) if cost else (None, None)
        cells = [
            str(first.run.epochs),
            f"{first.images_seen:,}",
            NONE if flops is None else engineering(flops),
            clock(result.mean("seconds")),
            *([NONE if share is None else f"{percent(share, 0)}{SPACE}%"] if measured else []),
            *("not available" if joules is None else engineering(joules) for joules in energy),
        ]
        rows.append(row_of(result, *cells))
    energies = ["Energy, J/image\ntraining", "Energy, J/image\ninference"]
    spent = ["Of the budget"] if measured else []
    columns = ["Run of", "Epochs", "Images seen", "Training FLOPs", "Training time", *spent, *energies]
    return Table("Cost of a run", columns, rows)


def row_of(result: VariantResult, *cells: str | Cell, marks: tuple[str, ...] = ()) -> Row:
    """Return a variant's row of a table."""
    return Row(result.variant, cells, result.index, marks)


def _how_it_was_measured(results: StudyResults) -> list[Part]:
    if not results.costs:
        return []
    costs = list(results.costs.values())
    first = costs[0]
    batches = " or ".join(str(size) for size in dict.fromkeys(cost.batch_size for cost in costs))
    modes = " or ".join(dict.fromkeys(f"{cost.precision} {'compiled' if cost.compiled else 'eager'}" for cost in costs))
    together = f", {first.processes} processes at a time like the runs" if first.processes > 1 else ""
    meter = "; this machine does not report it" if first.train_joules_per_image is None else ""
    before = ""
    if any(run.seconds_before for run in results.finished):
        before = ", and of the runs that they start from; images seen and training FLOPs leave those out"
    return [
        Note(
            f"Measured in one session on {first.device} with {counted(first.threads, 'thread')}, torch {first.torch}, "
            f"{modes}, batches of {batches} random images in memory. The variants take turns{together}: median, "
            f"in brackets the quartiles over turns; at least {min(cost.repetitions for cost in costs)} steps after a "
            "warm-up. A training step is the experiment's own, with objective, teacher, decoder, clipping and "
            "accumulation as configured. *In the runs*: with loading, without validation and checkpoints; median over "
            "epochs after the first. FLOPs per image are of the forward pass of inference and count a multiply-add as "
            "two; halve them for MACs. Training FLOPs are of whole training steps. Energy is that of the whole device, "
            f"including other programs{meter}. Training time is the wall-clock time of the runs themselves"
            f"{_at_once(results, first)}, including data loading and validation{before}."
        )
    ]


def _at_once(results: StudyResults, cost: Cost) -> str:
    """Return how many runs shared a device; nothing if the cost was measured on another device."""
    environment = results.ranking[0].runs[0].environment
    runs = "one run at a time" if cost.processes == 1 else f"{cost.processes} runs in parallel"
    if cost.device == f"{environment.get('device')}, {environment.get('cores')} cores":
        return f" ({runs} on the CPU, {counted(cost.threads, 'thread')} each)"
    return f" ({runs} on each GPU)" if cost.device == environment.get("device") else ""
