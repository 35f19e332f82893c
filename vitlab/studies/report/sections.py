"""The sections of a study's report: tables, figures and what they mean."""

import math
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vitlab.studies.format import (
    NONE,
    as_yaml,
    bracket,
    clock,
    counted,
    digits_for,
    engineering,
    p_value,
    percent,
    signed,
    speed,
)  # fmt: skip
from vitlab.studies.report.document import (
    Cell,
    Code,
    Details,
    Figure,
    Gallery,
    Heading,
    Note,
    Part,
    Row,
    Section,
    Table,
    Text,
)  # fmt: skip
from vitlab.studies.report.figures import Drawing
from vitlab.studies.report.gallery import gallery, shown_seed
from vitlab.studies.report.robustness import Robustness, robustness_table
from vitlab.studies.results import Pair, StudyResults, VariantResult
from vitlab.studies.statistics.intervals import sampling_margin
from vitlab.studies.statistics.power import MOST_SEEDS
from vitlab.studies.workshop import Images

CLASSES_SHOWN = 30
CONFUSIONS_SHOWN = 5
INTERVAL = "95 % interval"


def sections_of(
    results: StudyResults,
    images: Images,
    drawings: Mapping[str, Drawing],
    robustness: Robustness | None,
    folder: Path,
) -> list[Section]:
    """Return the sections of a study that has finished runs, in the order of the page."""
    optional = {
        "Tuning": _tuning(results) if results.choices else [],
        "Robustness": [] if robustness is None else _robustness(results, robustness, drawings, folder),
    }
    cards = gallery(results, images)
    predictions = Text(
        f"Predictions of each variant's model of seed {shown_seed(results)} on {len(cards)} of the "
        f"{counted(len(results.labels), 'test image')}, with their confidence and the number of the variant's seeds "
        "that are correct. Images on which the models disagree come first, then those that all of them get wrong."
    )
    sections = [
        Section("Ranking", _ranking(results, drawings)),
        Section("Differences", _differences(results)),
        Section("Tuning", optional["Tuning"]),
        Section("Learning", _learning(results, drawings)),
        Section("Cost", _cost(results, drawings)),
        Section("Calibration", [Figure(drawings["calibration"], CALIBRATION)]),
        Section("Robustness", optional["Robustness"]),
        Section("Classes", _classes(results)),
        Section("Images", [predictions, Gallery(cards)], html_only=True),
        Section("Configuration", _configuration(results)),
    ]
    return [section for section in sections if section.parts]


CALIBRATION = (
    "Left: a calibrated variant lies on the dashed line, where predictions made with 80 % confidence are correct in "
    "80 % of cases; below the line it is overconfident, above it underconfident. Bins with fewer than five predictions "
    "are omitted. All seeds are pooled."
)


def _row(result: VariantResult, *cells: str | Cell, marks: tuple[str, ...] = ()) -> Row:
    return Row(result.variant, cells, result.index, marks)


def _ranking(results: StudyResults, drawings: Mapping[str, Drawing]) -> list[Part]:
    digits, seeds = digits_for(len(results.labels)), len(results.study.seeds)
    averaged = any(result.accuracy_ema is not None for result in results.ranking)
    rows: list[tuple[float, int, Row]] = []
    for result in results.ranking:
        ema = percent(result.accuracy_ema.mean, digits) if result.accuracy_ema else NONE
        cells: tuple[str | Cell, ...] = (
            Cell(percent(result.accuracy.mean, digits), bold=True),
            bracket(result.accuracy, digits) or NONE,
            *([ema] if averaged else []),
            str(len(result.runs)) + (f" of {seeds}" if len(result.runs) < seeds else ""),
            signed(result.nll.mean, 3),
            percent(result.ece.mean, 1),
        )
        marks = *_below_baselines(results, result.accuracy.mean), *(f"≠ {x}" for x in results.set_apart(result))
        rows.append((result.accuracy.mean, 0, _row(result, *cells, marks=marks)))
    lines = results.baselines
    for name, accuracy, note in (
        ("k-NN on raw pixels", lines.knn, lines.describe_knn(results.tested_on_validation)),
        ("majority class", lines.majority, f"always “{lines.majority_class}”"),
    ):
        rows.append((accuracy, 1, Row(name, (percent(accuracy, digits), note), reference=True)))
    # A variant that ties with a baseline does not beat it, and is listed below.
    rows.sort(key=lambda row: (-row[0], -row[1]))
    columns = ["Variant", "Accuracy, %", INTERVAL, *(["Averaged weights, %"] if averaged else [])]
    margin = sampling_margin(results.ranking[0].accuracy.mean, len(results.labels))
    size = counted(len(results.labels), "test image")
    runs = [
        _row(
            result, str(run.run.seed), percent(run.top1, digits), signed(run.nll, 3), percent(run.ece, 1),
            clock(run.seconds), marks=_below_baselines(results, run.top1),
        )
        for result in results.ranking
        for run in result.runs
    ]  # fmt: skip
    runs += [Row(run.variant, (str(run.seed), f"failed: {failure}")) for run, failure in results.failures]
    return [
        Figure(
            drawings["ranking"],
            "Filled marker: mean. Open markers: individual runs. Bar: 95 % t-interval of the mean over seeds.",
        ),
        Table("Ranking", [*columns, "Seeds", "NLL", "ECE, %"], [row for *_, row in rows], left=[INTERVAL]),
        Note(
            "Accuracy of the weights after the last epoch. The interval shows where the mean would lie with other "
            f"seeds on the same {size}. Another test set of this size would shift every accuracy by about "
            f"±{percent(margin, 1)} points, similarly for all variants. NLL: negative log-likelihood of the labels, in "
            "nats. ECE: expected calibration error, the mean gap between confidence and accuracy. Lower is better for "
            "both."
        ),
        Details(
            "All runs",
            [Table("All runs", ["Variant", "Seed", "Accuracy, %", "NLL", "ECE, %", "Training time"], runs)],
        ),
    ]


def _below_baselines(results: StudyResults, accuracy: float) -> tuple[str, ...]:
    return tuple(f"≤ {line.replace(' on raw pixels', '')}" for line in results.lines_not_beaten(accuracy))


def _differences(results: StudyResults) -> list[Part]:
    digits = digits_for(len(results.labels))
    pairs, tests, by_seed = [], [], []
    for pair in results.pairs:
        comparison, name = pair.comparison, f"{pair.better.variant} – {pair.worse.variant}"
        conclusion = f"{'better' if pair.separable else 'not separable'} at {counted(comparison.seeds, 'seed')}"
        interval = bracket(comparison.difference, digits) or NONE
        difference = Cell(percent(comparison.difference.mean, digits), bold=True)
        detectable = _detectable(pair, digits)
        pairs.append(Row(name, (difference, interval, conclusion, p_value(pair.p), detectable, _required(pair))))
        p_values = [p_value(p) for p in (comparison.p_seeds, comparison.p_images, comparison.p_both)]
        tests.append(Row(name, (*p_values, signed(comparison.effect, 1), f"{percent(comparison.outperforms, 0)} %")))
        for seed, test in comparison.mcnemar.items():
            by_seed.append(Row(name, (str(seed), str(test.only_a), str(test.only_b), p_value(test.p))))
    conclusions = ["Pair", "Difference", INTERVAL, "Conclusion", "Corrected p", "Detectable", "Required"]
    return [
        Table("Differences between variants", conclusions, pairs, left=[INTERVAL, "Conclusion"]),
        Note(
            "A variant is called *better* only if three tests find a difference: the largest of their p-values, "
            f"corrected for {counted(len(results.pairs), 'pair')} (Holm), must be below 0.05. *Not separable* does not "
            "mean equal: the interval shows which differences remain possible. *Detectable*: the true difference, in "
            "points, that four of five such studies would find. *Required*: the number of seeds, or of test images "
            "where no number of seeds suffices, to establish a difference as large as measured."
        ),
        Details(
            "The three tests",
            [
                Table("The three tests", ["Pair", "p, seeds", "p, images", "p, both", "Cohen's d", "Seeds won"], tests),
                Note(
                    "*Seeds*: exact sign-flip test over seeds; with n seeds p is at least 2/2ⁿ. *Images*: sign-flip "
                    "test over images. *Both*: crossed bootstrap (BCa) over seeds and images, which also gives the "
                    "interval. *Cohen's d*: the difference in standard deviations between seeds, from six seeds on; "
                    "with fewer the deviation is a guess. *Seeds won*: seeds with which the first variant is better."
                ),
            ],
        ),
        Details(
            "McNemar's test for each seed",
            [
                Table(
                    "McNemar's test by seed",
                    ["Pair", "Seed", "Only the first correct", "Only the second correct", "Exact p"],
                    by_seed,
                ),
                Note(
                    "Each row compares two trained models, not their architectures, and is not corrected for the "
                    "number of rows."
                ),
            ],
        ),
    ]


def _detectable(pair: Pair, digits: int) -> str:
    """Format the smallest difference that the study could detect for a pair, in points."""
    if pair.outlook is None:
        return NONE
    return percent(pair.outlook.visible, digits) if math.isfinite(pair.outlook.visible) else "none"


def _required(pair: Pair) -> str:
    """Format the sample size that would establish a difference as large as measured."""
    if pair.outlook is None:
        return NONE
    if pair.outlook.seeds is not None:
        return counted(pair.outlook.seeds, "seed")
    images = pair.outlook.images
    return f"≥ {counted(images, 'image')}" if images else f"> {counted(MOST_SEEDS, 'seed')}"


def _tuning(results: StudyResults) -> list[Part]:
    tuning, digits = results.study.tuning, digits_for(len(results.labels))
    assert tuning is not None
    rows = []
    for choice in results.choices:
        cells = [
            Cell("failed" if trial.accuracy is None else percent(trial.accuracy, digits), bold=trial == choice.best)
            for trial in choice.trials
        ]
        rows.append(Row(choice.variant, cells))
    seeds = f"seed{'s' if len(tuning.seeds) > 1 else ''} {', '.join(map(str, tuning.seeds))}"
    return [
        Table("Tuning", [tuning.key, *map(as_yaml, tuning.values)], rows),
        Note(
            f"Validation accuracy after the last epoch, in %, mean over {seeds}. Every variant tried the same values, "
            "and no test image was used. Bold: the value that the variant was then trained with."
        ),
    ]


def _learning(results: StudyResults, drawings: Mapping[str, Drawing]) -> list[Part]:
    rows = []
    for result in results.ranking:
        curve, seconds = result.curve("val/top1"), result.seconds_to(results.target)
        if not len(curve.epochs):
            rows.append(_row(result, NONE, NONE, NONE, NONE, "not reached"))
            continue
        best = int(np.argmax(curve.mean))
        accuracies = percent(float(curve.mean[-1]), 1), percent(float(curve.mean[best]), 1)
        spread = percent(float(curve.high[-1] - curve.low[-1]), 1)
        minutes = "not reached" if seconds is None else signed(seconds / 60, 1)
        rows.append(_row(result, *accuracies, str(curve.epochs[best]), spread, minutes))
    target = f"{percent(results.target, 0)} %"
    reached = "" if results.study.target_accuracy else ", which every run reached"
    columns = ["Validation accuracy, %", "Last", "Best", "At epoch", "Range over seeds", f"Minutes to {target}"]
    return [
        Figure(
            drawings["learning_curves"],
            "Line: mean over seeds. Band: minimum to maximum over seeds. Early epochs may lie below the axis.",
        ),
        Table("Validation accuracy", columns, rows),
        Note(
            "Last and best: of the mean over seeds. Range: maximum minus minimum over seeds at the last epoch. "
            f"Minutes: training time to a validation accuracy of {target}{reached}."
        ),
    ]


def _cost(results: StudyResults, drawings: Mapping[str, Drawing]) -> list[Part]:
    digits = digits_for(len(results.labels))
    variants, runs = [], []
    for result in results.ranking:
        cost, first = results.costs.get(result.variant), result.runs[0]
        accuracy = percent(result.accuracy.mean, digits)
        seen, spent = f"{first.images_seen:,}", clock(result.seconds)
        if cost is None:
            variants.append(_row(result, accuracy, "not measured"))
            runs.append(_row(result, str(first.run.epochs), seen, NONE, spent, NONE, NONE))
            continue
        speeds = [
            speed(cost.train_images_per_second, cost.train_range),
            speed(cost.inference_images_per_second, cost.inference_range),
        ]
        memory = engineering(cost.train_peak_bytes, "B"), engineering(cost.inference_peak_bytes, "B")
        sizes = engineering(cost.parameters), engineering(cost.flops)
        variants.append(_row(result, accuracy, *sizes, *speeds, *memory))
        flops = engineering(cost.train_flops * first.images_seen)
        energy = _joules(cost.train_joules_per_image), _joules(cost.inference_joules_per_image)
        runs.append(_row(result, str(first.run.epochs), seen, flops, spent, *energy))
    speeds_and_memory = ["Training\nimages/s", "Inference\nimages/s", "Peak memory\ntraining", "Peak memory\ninference"]
    energies = ["Energy, J/image\ntraining", "Energy, J/image\ninference"]
    return [
        Figure(
            drawings["accuracy_against_cost"],
            "Bar: 95 % interval over seeds. Dashed: the Pareto front, variants that no other beats in accuracy or cost "
            "without losing in the other.",
        ),
        Table("Cost", ["Variant", "Accuracy, %", "Parameters", "FLOPs / image", *speeds_and_memory], variants),
        Table(
            "Cost of a run",
            ["Run of", "Epochs", "Images seen", "Training FLOPs", "Training time", *energies],
            runs,
        ),
        *_how_cost_was_measured(results),
    ]


def _how_cost_was_measured(results: StudyResults) -> list[Part]:
    if not results.costs:
        return []
    costs = list(results.costs.values())
    first = costs[0]
    batches = " or ".join(str(size) for size in dict.fromkeys(cost.batch_size for cost in costs))
    turns = "the variants take turns (in brackets the slowest and the fastest turn); " if first.train_range else ""
    meter = "; this machine does not report it" if first.train_joules_per_image is None else ""
    return [
        Note(
            f"Measured in one session on {first.device} with {counted(first.threads, 'thread')}, torch {first.torch}, "
            f"float32, batches of {batches} random images in memory; {turns}at least "
            f"{min(cost.repetitions for cost in costs)} steps after a warm-up. A training step is forward, backward, "
            "AdamW. FLOPs are of the forward pass and count a multiply-add as two; halve them for MACs. Training FLOPs "
            "are of forward and backward passes. Energy is that of the whole device, including other programs"
            f"{meter}. Training time is the wall-clock time of the runs themselves ({results.allotment}), including "
            "data loading and validation."
        )
    ]


def _joules(value: float | None) -> str:
    return "not available" if value is None else engineering(value)


def _robustness(
    results: StudyResults, robustness: Robustness, drawings: Mapping[str, Drawing], folder: Path
) -> list[Part]:
    parts: list[Part] = []
    if drawing := drawings.get("curves_of_robustness"):
        images = int(robustness.table["images"].iloc[0])
        sample = f" on {counted(images, 'image')}, stratified by class" if images < len(results.labels) else ""
        order = {result.variant: result.index for result in results.ranking}
        parts = [
            Figure(
                drawing,
                "Accuracy on increasingly corrupted test images, identical for every model. Line: mean over seeds. "
                "Band: minimum to maximum. Nothing was selected by these numbers.",
            ),
            robustness_table(robustness, order, intervals=False),
            Note(
                f"Mean over strengths and seeds{sample}. robustness/index.html in the study's folder gives the "
                "intervals and defines the corruptions."
            ),
        ]
    if robustness.missing:
        parts += [
            Text(f"Not measured for the present models: {'; '.join(robustness.missing)}. Measure, then compare again:"),
            Code(f"python -m vitlab robustness --study {shlex.quote(str(folder))}"),
        ]
    return parts


def _classes(results: StudyResults) -> list[Part]:
    """Return accuracy by class, for the classes on which the variants differ most if there are many."""
    accuracies = results.per_class.drop(columns="images")
    shown = results.per_class.index
    if len(shown) > CLASSES_SHOWN:
        gaps = accuracies.max(axis=1) - accuracies.min(axis=1)
        shown = gaps.sort_values(ascending=False, kind="stable").index[:CLASSES_SHOWN]
    worst = max(float(np.nanmax(1 - accuracies.loc[shown].to_numpy())), 1e-9)
    rows = []
    for name in shown:
        cells = [
            Cell(percent(value, 1), heat=0 if math.isnan(value) else (1 - value) / worst)
            for value in map(float, accuracies.loc[name])
        ]
        rows.append(Row(str(name), [str(results.per_class.loc[name, "images"]), *cells]))
    omitted = len(results.per_class) - len(shown)
    rest = (
        f" These are the classes on which the variants differ most; per_class.csv lists {omitted} more."
        if omitted
        else ""
    )
    confusions = [
        _row(
            result,
            ", ".join(f"{a} as {b} ({n}×)" for a, b, n in results.confusions(result)[:CONFUSIONS_SHOWN]) or "none",
        )
        for result in results.ranking
    ]
    variants = [result.variant for result in results.ranking]
    most = "Most frequent confusions"
    return [
        Table("Accuracy by class", ["Class", "Test images", *variants], rows),
        Note(f"Accuracy in %, mean over seeds. Darker cells have more errors.{rest}"),
        Heading(most),
        Table(most, ["Variant", "Label as prediction (count over all seeds)"], confusions,
              left=["Label as prediction (count over all seeds)"]),
    ]  # fmt: skip


def _configuration(results: StudyResults) -> list[Part]:
    parts: list[Part] = []
    columns = ["Key", *results.study.variants]
    for declared, title in ((True, "Compared settings"), (False, "Other differences")):
        rows = [
            Row(difference.key, [as_yaml(value) for value in difference.values.values()])
            for difference in results.differences
            if difference.declared == declared
        ]
        if rows and not declared:
            warning = "These settings also differ, although the study's `may_differ` does not list them. They may "
            parts += [Heading(title), Text(f"{warning}explain the ranking.")]
        elif rows:
            parts.append(Heading(title))
        elif not declared:
            parts += [Heading(title), Text("Nothing: the resolved configurations agree in every other setting.")]
        if rows:
            parts.append(Table(title, columns, rows, left=columns, monospaced=True))
    facts = [
        Row(fact.key, [("" if fact.same else "differs: ") + "; ".join(fact.values)]) for fact in results.environment
    ]
    return [*parts, Heading("Environment"), Table("Environment", ["Entry", "Value"], facts, ["Value"], monospaced=True)]
