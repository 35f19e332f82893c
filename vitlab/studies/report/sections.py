"""The sections of a study's report: tables, figures and what they mean."""

import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import MaxNLocator
from referee.formats import NONE, SPACE, counted, joined, listed, percent, signed
from referee.report.claim import caption, deciding, deciding_table
from referee.report.differences import INTERVAL, chance, differences_section, limits
from referee.report.document import Cell, Code, Details, Figure, Gallery, Heading, Note, Part, Row, Section, Table, Text
from referee.report.drawing import Drawing, Layout, draw_curve, panels_of, put_legend
from referee.report.effects import effects_section
from referee.statistics.contrast import Interval, sampling_margin, t_interval

from vitlab.config import ABSENT, flatten, short
from vitlab.evaluation.per_class import in_order
from vitlab.evaluation.predictions import PIXELATED_BELOW, data_uri, probabilities
from vitlab.runs.directory import ROBUSTNESS
from vitlab.studies.file.fairness import Images
from vitlab.studies.file.format import as_yaml, clock
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import NAMES, PROBES, Study, slug
from vitlab.studies.report.cost import cost_section, tuning_section
from vitlab.studies.report.verdict import design_effect, judged, remarks_below
from vitlab.studies.results import RunResult, StudyResults, VariantResult

NOT_SET = {ABSENT, str(None)}
LABELS, TABLE = "labels.csv", "table.tex"
CLASSES_SHOWN = 30
CONFUSIONS_SHOWN = 5
Drawings = Mapping[str, Drawing]


def sections_of(
    results: StudyResults, images: Images, drawings: Drawings, robustness: "Robustness | None", folder: Path
) -> list[Section]:
    """Return the sections of the page, in their order; without finished runs the last two alone."""
    one_class, claim = results.metric.one_class, results.study.claim
    measured, paper, claimed = list[Section](), list[Section](), list[Part]()
    if results.finished:
        if claim is not None:
            claimed = [Figure(drawings["claim"], caption(claim)), *deciding_table(deciding(claim, judged(results)))]
        measured = [
            Section("Claim", claimed),
            Section("Factors", effects_section(judged(results), drawings.get("cells"))),
            Section("Ranking", _ranking(results, drawings)),
            Section("Differences", differences_section(results.verdict, drawings["differences"])),
            Section("Tuning", tuning_section(results)),
            Section("Learning", _learning(results, drawings)),
            Section("Cost", cost_section(results, drawings)),
            Section("Calibration", _calibration(results, drawings) if one_class else []),
            robustness_section(results, robustness, drawings.get("curves_of_robustness"), folder),
            Section("Classes", _classes(results) if one_class else []),
            Section("Images", _images(results, images) if one_class else []),
            Section("Labels", _labels(results, images) if one_class and results.study.folds else []),
            Section("Configuration", _configuration(results)),
        ]
        latex = Details(f"The ranking in LaTeX ({TABLE}, with booktabs)", [Code(results.verdict.latex())])
        notes = (
            "Bold in it: the best, and what the test does not show to be worse, which may still be much worse.",
            "Figures are in *figures/* as PDF, SVG and PNG. *report.csv* has every number of this page, *results.csv* "
            "a row for each run.",
        )
        paper = [Section("For a paper", [Text(" ".join(methods(results))), latex, *map(Note, notes)])]
    root, used = folder.parents[1] if results.study.place else folder.parent, list[Part]()
    for leader in results.ranking[:1] if one_class else ():  # one of its models classifies other pictures
        first = (leader.runs[0].parts or leader.runs)[0].run
        text, directory = f"{leader.variant}, the run of seed {first.seed}, classifies new pictures:", first.directory
        if results.study.folds:
            directory = root / f"{slug(results.study.name)}-model" / first.directory.name
            text = f"{leader.variant} has a model for each fold. For new pictures, train one more without folds:"
            again = ["fit", "--config", str(first.config_path), "--data.folds", "null", "--data.val_fraction", "0.05"]
            again += ["--run.root", str(root), "--run.name", directory.parent.name]
            used = [Code(shlex.join(["python", "-m", "vitlab", *again]))]
        predict = Code(f"python -m vitlab predict --config {shlex.quote(str(directory))} --images new")
        used = [] if first.config.get("run", {}).get("probe") == "knn" else [Text(text), *used, predict]
    commands = [f"{command_of(results.study, root)}    # the whole study"]
    for result in results.finished[:1]:
        path = (result.parts or [result])[0].run.config_path
        commands.append(f"python -m vitlab fit --config {shlex.quote(str(path))}    # one of its runs")
    reproduce = Section("Reproduce", [*map(Code, commands), study_file(results.study)])
    ends = [Section("Remarks", [*map(Text, remarks_below(results))]), Section("Use", used), *paper, reproduce]
    return [section for section in (*measured, *ends) if section.parts]


def study_file(study: Study) -> Part:
    files = [study.path] if study.like is None else [study.path, study.like]
    return Details("The study's file", [Code(file.read_text(encoding="utf-8").strip()) for file in files])


def command_of(study: Study, root: Path) -> str:
    """Return the command that repeats a study, with the data that it was given."""
    given = [f"--{short(key)}={as_yaml(value)}" for key, value in flatten(study.given).items()]
    place = [] if root == Path("runs") else ["--root", str(root)]
    return shlex.join(["python", "-m", "vitlab", "compare", "--config", str(study.path), *place, *given])


def _ranking(results: StudyResults, drawings: Drawings) -> list[Part]:
    metric = results.metric
    own_columns = ["NLL", "ECE, %"] if metric.one_class else []
    beside = [replace(metric, name=name, title="").column for name in metric.beside]
    columns = ["Variant", metric.column, INTERVAL, "Seeds", *beside, *own_columns]
    if any(result.score_ema is not None for result in results.ranking):
        columns.insert(3, f"Averaged weights{', %' if metric.is_fraction else ''}")
    of_runs = ["Variant", "Seed", metric.column, *own_columns, "Training time"]
    rows = []
    for result in results.ranking:
        for run in result.runs:
            nll_ece = [signed(run.nll, 3), percent(run.ece, 1)] if metric.one_class else []
            cells = [str(run.run.seed), metric.text(run.score, results.verdict.digits), *nll_ece, clock(run.seconds)]
            rows.append(Row(result.variant, cells, result.index, _below_baselines(results, run.score, run.untrained)))
    rows += [Row(run.variant, (str(run.seed), f"failed: {failure}")) for run, failure in results.failures]
    return [
        Figure(
            drawings["ranking"],
            "Filled marker: mean. Open markers: individual runs. Bar: 95 % t-interval of the mean over seeds.",
        ),
        Table("Ranking", columns, _ranked_rows(results), left=[INTERVAL]),
        Note(" ".join(_notes_on_ranking(results))),
        Details("All runs", [Table("All runs", of_runs, rows)]),
    ]


def _ranked_rows(results: StudyResults) -> list[Row]:
    metric, digits, seeds = results.metric, results.verdict.digits, len(results.study.seeds)
    averaged = any(result.score_ema is not None for result in results.ranking)
    rows: list[tuple[float, int, Row]] = []  # to be sorted: score, 1 for a baseline
    untrained: dict[float, list[str]] = {}
    for result in results.ranking:
        ema = metric.text(result.score_ema.mean, digits) if result.score_ema else NONE
        cells: list[str | Cell] = [
            Cell(metric.text(result.score.mean, digits), bold=True),
            metric.bracket(result.score, digits) or NONE,
            *([ema] if averaged else []),
            str(len(result.runs)) + (f" of {seeds}" if len(result.runs) < seeds else ""),
        ]
        logged = [run.summary.get("metrics", {}) for run in result.runs]
        cells += [percent(fmean(m.get(f"test/{name}", math.nan) for m in logged), 1) for name in metric.beside]
        if metric.one_class:
            cells += [signed(result.mean("nll"), 3), percent(result.mean("ece"), 1)]
        below = _below_baselines(results, result.score.mean, result.untrained)
        rows.append((metric.sign * result.score.mean, 0, Row(result.variant, cells, result.index, below)))
        if result.untrained is not None:
            untrained.setdefault(result.untrained, []).append(result.variant)
    for score, variants in untrained.items():  # the same network starts several of them
        name = f"{listed(variants, 2)}, untrained"
        rows.append((score, 1, Row(name, (percent(score, digits), ""), reference=True)))
    if lines := results.baselines:
        first, *_ = results.study.variants
        trained_on = {run.training_images for run in results.finished if run.run.seed == results.study.seeds[0]}
        whose = f", those of {first}" if len(trained_on) > 1 else ""
        notes = lines.describe_knn() + whose, f"always “{lines.majority_class}”"
        for (name, accuracy), note in zip(reversed(lines.lines.items()), notes, strict=True):
            rows.append((accuracy, 1, Row(name, (percent(accuracy, digits), note), reference=True)))
    # A variant that ties with a baseline does not beat it, and is listed below.
    return [row for *_, row in sorted(rows, key=lambda row: (-row[0], -row[1]))]


def _notes_on_ranking(results: StudyResults) -> Iterator[str]:
    metric = results.metric
    name = f"{metric.label[0].upper()}{metric.label[1:]}" if metric.is_fraction else metric.name
    mean = "geometric mean" if metric.is_log else "mean"
    yield (
        f"{name} of the weights after the last epoch, {mean} over seeds. The interval shows where it would lie with "
        f"other seeds on the same {results.scored}."
    )
    if metric.is_accuracy:
        best = results.ranking[0]
        images = round(len(results.labels) / design_effect(best.runs[0].correct, results.outcomes.groups))
        shift = f"±{percent(sampling_margin(best.score.mean, images), 1)} points, similarly for all variants"
        yield f"Another test set of this size would shift every accuracy by about {shift}."
    if metric.one_class:
        yield (
            "NLL: negative log-likelihood of the labels, in nats. ECE: expected calibration error, the mean gap "
            "between confidence and accuracy. Lower is better for both."
        )


def _below_baselines(results: StudyResults, score: float, untrained: float | None) -> tuple[str, ...]:
    known = results.baselines.lines if results.baselines else {}
    lines = tuple(f"≤ {line.replace(' on raw pixels', '')}" for line, value in known.items() if score <= value)
    return lines if untrained is None or score > untrained else (*lines, "≤ untrained")


def _learning(results: StudyResults, drawings: Drawings) -> list[Part]:
    metric, rows = results.metric, []
    digits = 1 if metric.is_fraction else results.verdict.digits
    below = " Early epochs may lie below the axis." if metric.is_fraction else ""
    caption_of = f"Line: mean over seeds. Band: minimum to maximum over seeds.{below}"
    curves = Figure(drawings["learning_curves"], caption_of)
    if results.target is None:
        return [curves]
    for result in results.ranking:
        curve, seconds = result.curve(metric.validation), result.seconds_to(results.target)
        if curve.empty:
            continue  # a frozen encoder
        mean, low, high = curve.to_numpy().T
        best = int(np.argmax(metric.sign * mean))
        values = mean[-1], mean[best], high[-1] - low[-1]
        last, highest, spread = (metric.text(float(value), digits) for value in values)
        reached = "not reached" if seconds is None else clock(seconds)
        rows.append(Row(result.variant, (last, highest, str(curve.index[best]), spread, reached), result.index))
    target = f"{100 * results.target:.6g} %" if metric.is_fraction else metric.text(results.target, digits)
    columns = [metric.axis("Validation"), "Last", "Best", "At epoch", "Range over seeds", f"Time to {target}"]
    return [
        curves,
        Table(f"Validation {metric.label}", columns, rows),
        Note(
            "Last and best: of the mean over seeds. Range: maximum minus minimum over seeds at the last epoch. "
            f"Time: minutes and seconds of training to a validation {metric.label} of {target}, which every run "
            "reached. A frozen variant has no epochs."
        ),
    ]


def _calibration(results: StudyResults, drawings: Drawings) -> list[Part]:
    """Return the figure, and what temperature scaling would give where a run has validation images of its own."""
    columns, rows = ["Variant", "Temperature", "ECE, %", "ECE calibrated, %"], list[Row]()
    for result in results.ranking:
        eces = [percent(result.mean(name), 1) for name in ("ece", "ece_calibrated")]
        rows.append(Row(result.variant, (signed(result.mean("temperature"), 2), *eces), result.index))
    parts: list[Part] = [
        Figure(
            drawings["calibration"],
            "Left: a calibrated variant lies on the dashed line, where predictions made with 80 % confidence are "
            "correct in 80 % of cases; below the line it is overconfident, above it underconfident. Bins with fewer "
            "than five predictions are omitted. All seeds are pooled.",
        )
    ]
    if any(not math.isnan(result.mean("temperature")) for result in results.ranking):
        note = (
            "Calibrated: logits are divided by a temperature fitted on each run's validation images (Guo et al. 2017), "
            "above 1 where they are overconfident, as the option --calibrate of export does. Means over seeds."
        )
        parts += [Table("Calibration", columns, rows), Note(note)]
    return parts


def _classes(results: StudyResults) -> list[Part]:
    """Return accuracy by class, of many those on which the variants differ most, and by stratum if runs know them."""
    accuracies, rest = results.per_class.drop(columns="images"), ""
    shown = results.per_class.index
    if (omitted := len(shown) - CLASSES_SHOWN) > 0:
        gaps = accuracies.max(axis=1) - accuracies.min(axis=1)
        shown = gaps.sort_values(ascending=False, kind="stable").index[:CLASSES_SHOWN]
        rest = f" These are the classes on which the variants differ most; per_class.csv lists {omitted} more."
    worst = max(float(np.nanmax(1 - accuracies.loc[shown].to_numpy())), 1e-9)
    rows = []
    for name in shown:
        right = map(float, accuracies.loc[name])
        cells = [Cell(percent(x, 1), heat=0 if math.isnan(x) else (1 - x) / worst) for x in right]
        rows.append(Row(str(name), [str(results.per_class.loc[name, "images"]), *cells]))
    title, column, confused = "Most frequent confusions", "Label as prediction (count over all seeds)", list[Row]()
    for result in results.ranking:
        counts: Counter[tuple[int, int]] = Counter()
        for run in result.runs:
            guesses = run.predictions.logits[~run.correct].argmax(axis=1)
            counts.update(zip(results.labels[~run.correct].tolist(), guesses.tolist(), strict=True))
        names, frequent = results.class_names, counts.most_common(CONFUSIONS_SHOWN)
        most = [f"{names[label]} as {names[guess]} ({n}×)" for (label, guess), n in frequent]
        confused.append(Row(result.variant, (", ".join(most) or "none",), result.index))
    variants = [result.variant for result in results.ranking]
    parts: list[Part] = [
        Table("Accuracy by class", ["Class", "Test images", *variants], rows),
        Note(f"Accuracy in %, mean over seeds. Darker cells have more errors.{rest}"),
    ]
    kinds = [run.predictions.strata for run in results.finished]
    for kind, values in kinds[0].items() if all(own.keys() == kinds[0].keys() for own in kinds) else ():
        rows, name = [], f"Accuracy by {kind}"
        for stratum in in_order(values):
            which, shares = values == stratum, list[str]()
            for result in results.ranking:
                x = t_interval([run.correct[which].mean() for run in result.runs], 1 / which.sum())
                shares.append(f"{percent(x.mean, 1)} {results.metric.bracket(x.within(0, 1), 1)}".strip())
            rows.append(Row(stratum, [str(which.sum()), *shares]))
        parts += [Heading(name), Table(name, [kind.capitalize(), "Test images", *variants], rows)]
    return [*parts, Heading(title), Table(title, ["Variant", column], confused, left=[column])]


def _images(results: StudyResults, images: Images) -> list[Part]:
    cards, models = gallery(results, images), "models" if results.study.folds else "model"
    seed = next(iter(models_shown(results).values())).run.seed
    return [
        Text(
            f"Predictions of each variant's {models} of seed {seed} on {len(cards)} of the "
            f"{counted(len(results.labels), 'test image')}, with their confidence and the number of the variant's "
            "seeds that are correct. Images on which the models disagree come first, then those that all of them get "
            "wrong."
        ),
        Gallery(cards),
    ]


def _labels(results: StudyResults, images: Images) -> list[Part]:
    margins, leader = results.label_margins, results.ranking[0]
    places = {name: index for index, name in enumerate(results.images)}
    indices = [places[name] for name in margins.index[:IMAGES_SHOWN]]
    doubts = zip(indices, margins["likeliest_other"], margins["p_other"], strict=False)
    pictures = zip(doubts, images.raw_images("test", indices), strict=True)
    cards = [card_of(results, index, image, [(leader, other, p)]) for (index, other, p), image in pictures]
    doubted = counted(int((margins["margin"] < 0).sum()), "image")
    return [
        Text(
            f"The labels that {leader.variant} doubts most: each image was tested by models that were not trained on "
            "it. First come those whose label is the least probable beside the likeliest other class (the normalized "
            f"margin of confident learning, Northcutt et al. 2021), below 0 for {doubted} of {len(margins):,}; "
            f"{LABELS} lists all. A hard image may have the right label: look before you change one."
        ),
        Gallery(cards, named=True),
    ]


def _configuration(results: StudyResults) -> list[Part]:
    parts: list[Part] = []
    columns = ["Key", *results.study.variants]
    for declared, title in ((True, "Compared settings"), (False, "Other differences")):
        shown = [each for each in results.differences if each.declared == declared]
        rows, empty = list[Row](), list[Row]()
        for each in shown:
            texts = {*map(str, each.values.values())}
            (rows if texts - NOT_SET else empty).append(Row(each.key, [*map(as_yaml, each.values.values())]))
        if shown or not declared:
            parts.append(Heading(title))
        if not declared:
            warning = "The study's `may_differ` does not list these settings, which may explain the ranking."
            parts.append(Text(warning if shown else "Nothing: the variants agree in every other setting."))
        if rows:
            parts.append(Table(title, columns, rows, left=columns, monospaced=True))
        if empty:
            absent = Table(f"{title}, null or absent", columns, empty, left=columns, monospaced=True)
            count = counted(len(empty), "more setting")
            parts.append(Details(f"{count}, null in some variants, absent in others", [absent]))
    known = results.environment.items()
    facts = [Row(key, [("differs: " if len(values) > 1 else "") + "; ".join(values)]) for key, values in known]
    return [*parts, Heading("Environment"), Table("Environment", ["Entry", "Value"], facts, ["Value"], monospaced=True)]


# ---- test images with every variant's prediction, those on which the variants disagree first

IMAGES_SHOWN = 60  # images at most


@dataclass(frozen=True)
class Prediction:
    """One variant's prediction for an image, from the run of the shown seed, and how many seeds are correct."""

    variant: str
    index: int  # position in the study: decides color and marker
    predicted: str
    confidence: float
    right: bool
    seeds_right: int
    seeds: int


class Card(NamedTuple):
    name: str
    label: str
    data_uri: str
    pixelated: bool
    answers: list[Prediction]  # in the order of the ranking


def interesting(results: StudyResults) -> np.ndarray:
    """Return the indices of all test images, the most informative first.

    1. Images on which the shown models disagree, by how much the variants' accuracies over all seeds differ.
    2. Images that all of them get wrong, then those that all get right, by increasing confidence in the label.
    """
    shown = [model.predictions.logits for model in models_shown(results).values()]
    guesses = np.stack([logits.argmax(axis=1) for logits in shown])  # (V, N)
    disputed = (guesses != guesses[0]).any(axis=0)
    right = np.stack([np.mean([run.correct for run in result.runs], axis=0) for result in results.ranking])  # (V, N)
    uneven = right.max(axis=0) - right.min(axis=0)
    labels = results.labels[:, None]
    confidence = np.mean([np.take_along_axis(probabilities(logits), labels, axis=1)[:, 0] for logits in shown], axis=0)
    # lexsort: the last key is the primary one
    return np.lexsort((confidence, right.mean(axis=0), -uneven * disputed, ~disputed))


def gallery(results: StudyResults, images: Images) -> list[Card]:
    """Return the most informative test images."""
    indices = interesting(results)[:IMAGES_SHOWN].tolist()
    models = models_shown(results)
    probability = {variant: probabilities(model.predictions.logits[indices]) for variant, model in models.items()}
    cards = []
    for position, (index, image) in enumerate(zip(indices, images.raw_images("test", indices), strict=True)):
        rows = [(r, probability[r.variant][position]) for r in results.ranking if r.variant in models]
        answers = [(r, results.class_names[int(row.argmax())], float(row.max())) for r, row in rows]
        cards.append(card_of(results, index, image, answers))
    return cards


def card_of(
    results: StudyResults, index: int, image: np.ndarray, answers: Sequence[tuple[VariantResult, str, float]]
) -> Card:  # each variant, with the class that it predicts and the probability
    label = results.class_names[results.labels[index]]
    predictions = [
        Prediction(r.variant, r.index, name, p, name == label, sum(int(x.correct[index]) for x in r.runs), len(r.runs))
        for r, name, p in answers
    ]
    pixelated = max(image.shape[:2]) < PIXELATED_BELOW
    return Card(results.images[index], label, data_uri(image), pixelated, predictions)


def models_shown(results: StudyResults) -> dict[str, RunResult]:
    """Return by variant the models that are shown: those of the first seed that most variants have finished."""
    finished = [result.run.seed for result in results.finished]
    seed = max(results.study.seeds, key=finished.count)
    return {result.variant: run for result in results.ranking for run in result.runs if run.run.seed == seed}


# ---- robustness.csv of each run has a row for each corruption, strength and number of images: `corruption` (`none` for
# clean images), `measure` (what the strength is, empty for clean images), `strength`, `images`, and `top1` in [0, 1]

CLEAN = "none"  # the `corruption` of clean images


class Robustness(NamedTuple):
    """Measurements of a study's models, and the runs without any."""

    table: pd.DataFrame
    missing: list[str]

    @property
    def measures(self) -> dict[str, str]:
        """What is varied, by corruption."""
        corrupted = self.table[self.table["corruption"] != CLEAN]
        return dict(zip(corrupted["corruption"], corrupted["measure"], strict=True))


def read_robustness(runs: Sequence[Run]) -> Robustness | None:
    """Return the measurements of these runs, of the number of images that most were tested on; None without any."""
    tables, names = list[pd.DataFrame](), [f"{run.variant}, seed {run.seed}" for run in runs]
    for run, name in zip(runs, names, strict=True):
        if (file := run.directory / ROBUSTNESS).is_file():
            rows = pd.read_csv(file, keep_default_na=False)
            tables.append(rows.assign(run=name, variant=run.variant, seed=run.seed))
    if not tables:
        return None
    table = pd.concat(tables)
    _, table = max(table.groupby("images"), key=lambda part: (part[1]["run"].nunique(), part[0]))
    table = table[table.groupby("corruption")["run"].transform("nunique") == table["run"].nunique()]
    measured = {*table["run"]}
    return Robustness(table, [name for name in names if name not in measured])


def robustness_section(
    results: StudyResults, robustness: Robustness | None, drawing: Drawing | None, folder: Path
) -> Section:
    parts: list[Part] = []
    if robustness and drawing:
        table, images = robustness.table, int(robustness.table["images"].iloc[0])
        sample = f" on {counted(images, 'image')}, stratified by class" if images < len(results.labels) else ""
        accuracies, digits = summary(table, [CLEAN, *robustness.measures]), TOP1.digits([], [], images)
        rows = []
        for result in results.ranking:
            if shown := accuracies.get(result.variant):
                cells = [Cell(percent(each.mean, digits), title=TOP1.bracket(each, digits)) for each in shown]
                rows.append(Row(result.variant, cells, result.index))
        parts = [
            Figure(
                drawing,
                "Accuracy on increasingly corrupted test images, identical for every model. Line: mean over seeds. "
                "Band: minimum to maximum. Nothing was selected by these numbers.",
            ),
            Table("Robustness", ["Accuracy, %", "clean", *robustness.measures], rows),
            Note(
                f"Mean over strengths and seeds{sample}. Noise, blur, contrast and JPEG follow ImageNet-C (Hendrycks "
                "and Dietterich 2019), except that the σ of the blur scales with the image's side. Resolution: bicubic "
                "down and up. Occlusion fills random squares of an 8 × 8 grid with the image's mean color."
            ),
        ]
    if robustness and robustness.missing:
        parts += [
            Text(f"Not measured for the present models: {'; '.join(robustness.missing)}. Measure, then compare again:"),
            Code(f"python -m vitlab robustness {shlex.quote(str(folder))}"),
        ]
    return Section("Robustness", parts)


def summary(table: pd.DataFrame, corruptions: Sequence[str]) -> dict[str, list[Interval]]:
    """Return by variant, for each corruption, the accuracy averaged over strengths, with its interval over seeds."""
    by_run = table.groupby(["variant", "corruption", "seed"])["top1"].mean()
    step = 1 / float(table["images"].iloc[0])
    return {
        variant: [t_interval(by_run[variant, name].to_numpy(), step).within(0, 1) for name in corruptions]
        for variant in table["variant"].unique()
    }


def draw_curves(robustness: Robustness, results: StudyResults, layout: Layout) -> Drawn:
    """Draw accuracy against strength, from clean images on, for each corruption: the mean and range over seeds."""
    table, measures, variants = robustness.table, robustness.measures, list(results.study.variants)
    columns = min(2 * layout.columns - 1, len(measures))
    figure, panels = panels_of(Layout(layout.width, columns), len(measures), 210, share_y=True)
    for axes, (name, measure) in zip(panels, measures.items(), strict=True):
        strengths = table[table["corruption"] == name]["strength"].unique()  # the mildest first
        for variant, runs in table.groupby("variant", sort=False):
            by_kind = 100 * runs.groupby(["corruption", "strength"])["top1"].agg(["mean", "min", "max"])
            rows = pd.concat([by_kind.loc[CLEAN], by_kind.loc[name].loc[strengths]])
            mean, low, high = rows[["mean", "min", "max"]].to_numpy().T
            draw_curve(axes, np.arange(len(mean)), mean, low, high, str(variant), variants.index(str(variant)))
        axes.set_xticks(range(len(strengths) + 1), ["none", *(f"{s:.2g}" for s in strengths)])
        axes.set_title(name)
        axes.set_xlabel(measure)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[::columns]:
        axes.set_ylabel("accuracy, %")
    put_legend(figure, panels[0], layout)
    return figure


# ---- for a paper

NAMED = ("vitlab", "torch", "lightning", "timm")  # packages


def methods(results: StudyResults) -> Iterator[str]:
    """Yield the sentences of the paragraph on methods."""
    study, metric, first = results.study, results.metric, results.finished[0]
    data = first.run.config["data"]
    root = flatten(data).get("init_args.root")
    source = data["class_path"].rpartition(".")[2] + (f" ({root})" if root else "")
    classes = f" of {len(results.class_names)} classes" if metric.one_class else ""
    splits = {split: facts.get("images") for split, facts in first.data.get("splits", {}).items()}
    words = {"train": "training", "val": "validation"}
    sizes = [f"{splits[split]:,} {word}" for split, word in words.items() if splits.get(split)]
    sizes += [f"{len(results.labels):,} test"]
    tested = ", which are also the validation images" if results.tested_on_validation else ""
    if study.folds:
        sizes = [f"{len(results.labels):,}"]
        tested = f", each tested once a seed in {study.folds} folds by the run that was not trained on it"
    yield f"{source}: {joined(sizes)} images{classes}{tested}."
    counts = sorted({len(result.runs) for result in results.ranking})
    seeds = (f"{counts[0]} to " if len(counts) > 1 else "") + counted(counts[-1], "seed")
    drawn = joined([NAMES[kind] for kind in NAMES if kind in study.vary])
    failed = f" {counted(len(results.failures), 'run')} failed." if results.failures else ""
    names = [result.variant for result in results.ranking]
    yield f"We compared {_quoted(names)} with {seeds} each, which change {drawn}.{failed}"
    yield from _trained(results)
    if study.tuning:
        yield f"We chose {joined(study.tuning.names)} of each variant on the validation images."
    yield (
        f"Scores are {metric.label} of the weights after the last epoch on the {metric.split} images, means over seeds "
        f"with 95{SPACE}% t-intervals."
    )
    verdict, looks, extended = results.verdict, study.looks, results.earlier_plans
    if pairs := sum(pair.difference is not None for pair in verdict.pairs):
        adjusted = f", adjusted for {counted(pairs, 'pair')} by a closed test from the top" if pairs > 1 else ""
        level = f"{100 * verdict.level:.2g}{SPACE}%"
        yield f"Pairs were compared at a level of {level}{adjusted}; chance is {chance(verdict)}."
        if looks:
            yield (
                f"The study was planned for {looks[0]} to {looks[-1]} seeds and tested after each from seed {looks[0]} "
                f"on, so that all looks together make at most 5{SPACE}% false claims."
            )
        elif extended:
            shown = joined([*map(str, extended)])
            yield f"Seeds were added after looks at {shown} of them, for which the level is lower."
        if verdict.outcomes.groups is not None:
            yield "Test images of a group were taken to fail together."
        if (margin := verdict.margin) is not None:
            yield f"Differences below {verdict.metric.size(margin)} were taken not to matter."
        yield from (line for line in limits(verdict) if line.startswith("The runs come from"))
    known = {key: joined(values) for key, values in results.environment.items()}
    if versions := [f"{name} {known[name]}" for name in NAMED if name in known]:
        on = {"device": "on", "precision": "in"}
        yield f"{joined(versions)}{''.join(f' {word} {known[key]}' for key, word in on.items() if key in known)}."


def _trained(results: StudyResults) -> Iterator[str]:
    """Yield how long and with what variants were trained, alike ones together, and from which weights."""
    alike: dict[str, list[str]] = {}
    for result in results.ranking:
        settings = flatten(result.runs[0].run.config)
        recipe = [settings.get("model.class_path"), settings.get("model.init_args.optimizer.class_path")]
        by = " and ".join(str(path).rpartition(".")[2] for path in recipe if path)
        rates = {flatten(each.run.config).get("model.init_args.optimizer.init_args.lr") for each in result.runs}
        rate = rates.pop() if len(rates) == 1 else None  # several where seeds tuned
        epochs = counted(result.runs[0].run.epochs, "epoch")
        how = f"trained for {epochs} by {by}" + (f" at a rate of {rate:g}" if rate else "")
        if result.is_frozen:
            how = f"{PROBES[settings['run.probe']]} read the features of the frozen network, without augmentation"
        alike.setdefault(how, []).append(result.variant)
    yield from (f"{_quoted(variants)}: {how}." for how, variants in alike.items())
    for each in results.context.compute:
        own = ", a run of its own for each seed" if each.by_seed else ""
        yield f"{_quoted(each.variants)} {'was taught by' if each.taught else 'started from'} {each.source}{own}."


def _quoted(names: Sequence[str]) -> str:
    return joined([f"“{name}”" for name in names])
