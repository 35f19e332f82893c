"""Robustness of a study's models: the measurements in `robustness.csv` of each run, and the report's section on them.

The file has a row for each corruption, strength and number of images: `corruption` (`none` for clean images), `measure`
(what the strength is, empty for clean images), `strength`, `images`, and `top1` in [0, 1].
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Drawn
from matplotlib.ticker import MaxNLocator
from referee.formats import counted, percent
from referee.report.document import Cell, Code, Figure, Note, Part, Row, Section, Table, Text
from referee.report.drawing import Drawing, Layout, draw_curve, panels_of, put_legend
from referee.statistics.contrast import Interval, t_interval

from vitlab.runs.directory import ROBUSTNESS
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.runs import Run
from vitlab.studies.results.table import StudyResults

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
