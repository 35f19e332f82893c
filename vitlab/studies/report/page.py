"""The report of a study: one HTML file that needs nothing else, Markdown with its figures, and a table of the runs."""

import math
import shlex
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vitlab.studies import format as wording
from vitlab.studies.report import figures
from vitlab.studies.report.gallery import gallery, shown_seed
from vitlab.studies.report.rendering import render
from vitlab.studies.report.robustness import Robustness, read_robustness, summary
from vitlab.studies.report.verdict import outlooks, remarks, verdict
from vitlab.studies.results import StudyResults, VariantResult
from vitlab.studies.robustness import CLEAN, FinishedRun
from vitlab.studies.statistics.intervals import Interval, sampling_margin
from vitlab.studies.workshop import Images

CLASSES_SHOWN = 30
CONFUSIONS_SHOWN = 5


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


def write_report(results: StudyResults, images: Images, folder: Path) -> Path:
    """Write report.html, report.md, figures/ and results.csv into a folder and return the path of the HTML file."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    results.table().to_csv(folder / "results.csv", index=False)
    runs = [FinishedRun(r.run.variant, r.run.seed, r.run.directory) for r in results.finished]
    robustness = read_robustness(folder, runs)
    charts = list(figures.CHARTS)
    if robustness is not None and len(robustness.table):
        charts.append(_robustness_chart(results, robustness))
    context = _context(results, images)
    if results.finished:
        results.per_class.to_csv(folder / "per_class.csv", index_label="class")
        context["pictures"] = {c.name: figures.draw(c, results, folder / "figures") for c in charts}
    if robustness is not None:
        context["spoilt"] = _spoilt(results, robustness, folder)
    for name in ("report.md", "report.html"):
        text = render(f"{name}.jinja", context)
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "report.html"


def _robustness_chart(results: StudyResults, robustness: Robustness) -> figures.Chart:
    def draw(_: StudyResults, layout: figures.Layout) -> Figure:
        variants = list(results.study.variants)
        return figures.robustness_curves(robustness.table, robustness.measures, variants, layout)

    return figures.Chart("curves_of_robustness", "Accuracy against strength for each corruption and variant.", draw)


def _spoilt(results: StudyResults, robustness: Robustness, folder: Path) -> Spoilt:
    measures = robustness.measures
    accuracies = summary(robustness.table, [CLEAN, *measures]) if measures else {}
    rows = [(result, accuracies[result.variant]) for result in results.ranking if result.variant in accuracies]
    command = f"python -m vitlab robustness --study {shlex.quote(str(folder))}"
    images = int(robustness.table["images"].iloc[0]) if rows else 0
    return Spoilt(measures, rows, robustness.missing, command, images)


def _context(results: StudyResults, images: Images) -> dict[str, Any]:
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
