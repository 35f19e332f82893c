"""The report of a study: one HTML file that needs nothing else, Markdown with its figures, and a table of the runs."""

import math
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vitlab.studies import format as wording
from vitlab.studies.report import figures
from vitlab.studies.report.gallery import gallery, shown_seed
from vitlab.studies.report.robustness import Robustness, draw_curves, read_robustness, summary
from vitlab.studies.report.verdict import outlooks, remarks, verdict
from vitlab.studies.results import Pair, StudyResults, VariantResult
from vitlab.studies.robustness import CLEAN, FinishedRun
from vitlab.studies.statistics.intervals import Interval, sampling_margin
from vitlab.studies.statistics.power import MOST_SEEDS
from vitlab.studies.workshop import Images

CLASSES_SHOWN = 30
CONFUSIONS_SHOWN = 5


class Picture(NamedTuple):
    """A chart in the page: drawn for wide and for narrow screens."""

    name: str
    wide: str
    narrow: str
    description: str


class Learned(NamedTuple):
    """How a variant's validation accuracy went: its mean over seeds, and how far the seeds lie apart at the end."""

    result: VariantResult
    last: float
    best: float
    epoch: int  # of the best
    spread: float
    seconds: float | None  # to the target


class Spoilt(NamedTuple):
    """The robustness of a study's models: mean accuracy by variant, as they are and by corruption; who is missing."""

    corruptions: dict[str, str]  # with what their strengths are
    rows: list[tuple[VariantResult, list[Interval]]]
    missing: list[str]
    command: str
    images: int  # that they were tested on


class Standing(NamedTuple):
    """A baseline in the ranking."""

    name: str
    accuracy: float
    note: str


CHARTS: tuple[tuple[figures.Chart, str], ...] = (
    (figures.ranking, "Test accuracy of every run, with mean and 95 % interval per variant."),
    (figures.learning_curves, "Validation accuracy and training loss by epoch for each variant."),
    (figures.accuracy_against_cost, "Mean test accuracy against six costs for each variant, with the Pareto front."),
    (figures.calibration, "How often answers of some confidence are right for each variant."),
)


def write_report(results: StudyResults, images: Images, folder: Path) -> Path:
    """Write report.html, report.md, figures/ and results.csv into a folder and return the path of the HTML file."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    results.table().to_csv(folder / "results.csv", index=False)
    runs = [FinishedRun(r.run.variant, r.run.seed, r.run.directory) for r in results.finished]
    robustness = read_robustness(folder, runs)
    charts = CHARTS
    if robustness is not None and len(robustness.table):
        charts = (*CHARTS, (_curves_of(robustness), "Accuracy against strength for each corruption and variant."))
    if results.finished:
        results.per_class.to_csv(folder / "per_class.csv", index_label="class")
        for chart, _ in charts:
            figures.write_files(chart, results, folder / "figures")

    context = _context(results, images, charts)
    if robustness is not None:
        context["spoilt"] = _spoilt(results, robustness, folder)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "clock": wording.clock,
        "engineering": wording.engineering,
        "p": wording.p_value,
        "percent": wording.percent,
        "bracket": wording.bracket,
        "signed": wording.signed,
        "visible": _visible,
        "needed": _needed,
        "joules": _joules,
        "speed": wording.speed,
        "yaml": wording.as_yaml,
        "counted": wording.counted,
    }
    for name in ("report.md", "report.html"):
        text = templates.get_template(f"{name}.jinja").render(context)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "report.html"


def _curves_of(robustness: Robustness) -> figures.Chart:
    """Return the chart of what was measured on spoilt images."""

    def curves_of_robustness(results: StudyResults, layout: figures.Layout) -> Figure:
        return draw_curves(robustness.table, robustness.measures, list(results.study.variants), layout)

    return curves_of_robustness


def _spoilt(results: StudyResults, robustness: Robustness, folder: Path) -> Spoilt:
    measures = robustness.measures
    accuracies = summary(robustness.table, [CLEAN, *measures]) if measures else {}
    rows = [(result, accuracies[result.variant]) for result in results.ranking if result.variant in accuracies]
    command = f"python -m vitlab robustness --study {shlex.quote(str(folder))}"
    images = int(robustness.table["images"].iloc[0]) if rows else 0
    return Spoilt(measures, rows, robustness.missing, command, images)


def _context(results: StudyResults, images: Images, charts: tuple[tuple[figures.Chart, str], ...]) -> dict[str, Any]:
    study = results.study
    context: dict[str, Any] = {
        "results": results,
        "study": study,
        "verdict": verdict(results),
        "outlooks": outlooks(results),
        "remarks": remarks(results),
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python -m vitlab compare --config {shlex.quote(str(study.path))}",
        "study_yaml": study.path.read_text(encoding="utf-8").strip(),
        "finished": bool(results.finished),
        "spoilt": None,
    }
    if not results.finished:
        return context
    digits = wording.digits_for(len(results.labels))
    classes, left_out = _classes(results.per_class)
    return context | {
        "digits": digits,
        "epochs": sorted({result.run.epochs for result in results.finished}),
        "standings": _standings(results),
        "pictures": {
            chart.__name__: Picture(
                chart.__name__,
                figures.to_svg(chart, results, figures.WIDE),
                figures.to_svg(chart, results, figures.NARROW),
                description,
            )
            for chart, description in charts
        },
        "learning": [_learned(results, result) for result in results.ranking],
        "margin": sampling_margin(results.ranking[0].accuracy.mean, len(results.labels)),
        "cards": gallery(results, images),
        "shown_seed": shown_seed(results),
        "classes": classes,
        "classes_left_out": left_out,
        "confusions": {r.variant: results.confusions(r)[:CONFUSIONS_SHOWN] for r in results.ranking},
        "has_ema": any(result.accuracy_ema is not None for result in results.ranking),
        "example": shlex.quote(str(results.finished[0].run.config_path)),
        "colors": figures.COLORS,
        "markers": figures.MARKERS,
    }


def _learned(results: StudyResults, result: VariantResult) -> Learned:
    curve = result.curve("val/top1")
    if not len(curve.epochs):
        return Learned(result, math.nan, math.nan, 0, math.nan, None)
    best = int(np.argmax(curve.mean))
    ends = float(curve.high[-1] - curve.low[-1])
    seconds = result.seconds_to(results.target)
    return Learned(result, float(curve.mean[-1]), float(curve.mean[best]), int(curve.epochs[best]), ends, seconds)


def _joules(value: float | None) -> str:
    """Return an energy, or that there is no meter."""
    return "not available" if value is None else wording.engineering(value)


def _visible(pair: Pair, digits: int) -> str:
    """Return the smallest difference that the study could have seen of a pair, in points."""
    if pair.outlook is None:
        return wording.NONE
    return wording.percent(pair.outlook.visible, digits) if math.isfinite(pair.outlook.visible) else "none"


def _needed(pair: Pair) -> str:
    """Return what it takes to show a difference as large as measured."""
    if pair.outlook is None:
        return wording.NONE
    if pair.outlook.seeds is not None:
        return wording.counted(pair.outlook.seeds, "seed")
    images = pair.outlook.images
    return f"≥ {wording.counted(images, 'image')}" if images else f"> {wording.counted(MOST_SEEDS, 'seed')}"


def _standings(results: StudyResults) -> list[Any]:
    """Return the variants and the lines to beat together, by accuracy: who stands below a line lies below it."""
    lines = results.baselines
    entries: list[tuple[float, int, Any]] = [(r.accuracy.mean, 0, r) for r in results.ranking]
    entries.append(
        (lines.knn, 1, Standing("k-NN on raw pixels", lines.knn, lines.describe_knn(results.tested_on_validation)))
    )
    entries.append((lines.majority, 1, Standing("majority class", lines.majority, f"always “{lines.majority_class}”")))
    return [entry for *_, entry in sorted(entries, key=lambda entry: (-entry[0], -entry[1]))]


def _classes(per_class: pd.DataFrame) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of the table by class, those with the widest gaps where they are many, and how many are left out.

    `shade` is the share of errors against the most that any cell shows, for the color behind the number.
    """
    accuracies = per_class.drop(columns="images")
    shown = per_class.index
    if len(shown) > CLASSES_SHOWN:
        gaps = accuracies.max(axis=1) - accuracies.min(axis=1)
        shown = gaps.sort_values(ascending=False, kind="stable").index[:CLASSES_SHOWN]
    most = max(float(np.nanmax(1 - accuracies.loc[shown].to_numpy())), 1e-9)
    rows = []
    for name in shown:
        cells = [float(value) for value in accuracies.loc[name]]
        rows.append(
            {
                "name": name,
                "images": int(per_class.loc[name, "images"]),
                "cells": [(value, 0 if math.isnan(value) else (1 - value) / most) for value in cells],
            }
        )
    return rows, len(per_class) - len(shown)
