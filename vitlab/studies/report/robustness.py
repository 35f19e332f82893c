"""Robustness of a study's models: the measurements in `robustness/robustness.csv`, and the report's section on them.

The file has one row per run, corruption, strength and number of images: `variant`, `seed`, `corruption` (`none` for
clean images), `measure` (what the strength is, empty for clean images), `strength`, `images`, `top1` in [0, 1], and
`predictions`, a fingerprint of the run that was measured.
"""

import hashlib
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
from referee.report.drawing import Chart, Drawing, Layout, draw_curve, panels_of, put_legend
from referee.statistics.contrast import Interval, t_interval

from vitlab.atomic_files import write_text
from vitlab.studies.file.metric import TOP1
from vitlab.studies.file.runs import Run
from vitlab.studies.file.study import folder_of_variant
from vitlab.studies.results.folds import FOLDS
from vitlab.studies.results.table import StudyResults

FILE = "robustness/robustness.csv"
"""In the study's folder."""
CELL = ["variant", "seed", "corruption", "strength", "images"]
COLUMNS = [*CELL, "top1", "measure", "predictions"]
CLEAN = "none"
"""The `corruption` of clean images."""


class FinishedRun(NamedTuple):
    """A run of a study, by its directory."""

    variant: str
    seed: int
    directory: Path


def finished_runs(study: Path) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs of a study's folder, in the report's order, and why the others are excluded.

    Raises:
        FileNotFoundError: not the folder of a finished study.
        ValueError: no run finished, or the study has folds.
    """
    path = study / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"--study {study}: contains no {path.name}. Expected the folder of a finished study, like runs/quickstart."
        )
    if (study / FOLDS).is_file():
        raise ValueError(f"--study {study}: with folds each image has another model. Give a study without `folds`.")
    table = pd.read_csv(path, dtype={"variant": str}, keep_default_na=False)  # a variant may be called None
    runs, excluded = [], []
    for variant, seed, status in zip(table["variant"], table["seed"].astype(int), table["status"], strict=True):
        if status == "finished":
            runs.append(FinishedRun(variant, seed, folder_of_variant(study, variant) / f"seed-{seed}"))
        else:
            excluded.append(f"{variant}, seed {seed}: {status}")
    if not runs:
        raise ValueError(f"--study {study}: none of its runs finished; see {path}.")
    return runs, excluded


# ---- the file


def keep(rows: pd.DataFrame, study: Path) -> None:
    """Add rows to `robustness.csv`; a new row replaces the old one of the same cell."""
    table = pd.concat([read_kept(study), rows], ignore_index=True).drop_duplicates(CELL, keep="last")
    write_text(study / FILE, table.to_csv(index=False))


def read_kept(study: Path) -> pd.DataFrame:
    """Return the rows that `keep` wrote, an empty table if there are none."""
    if not (study / FILE).is_file():
        return pd.DataFrame(columns=COLUMNS)
    table = pd.read_csv(study / FILE, dtype={"variant": str, "predictions": str}, keep_default_na=False)
    return table.reindex(columns=COLUMNS, fill_value="")  # an older file has no `predictions`


def current(table: pd.DataFrame, runs: Sequence[FinishedRun | Run]) -> pd.DataFrame:
    """Return the rows that were measured on these runs' present models."""
    fingerprints = {(run.variant, run.seed): fingerprint(run.directory) for run in runs}
    cells = zip(table["variant"], table["seed"].astype(int), table["predictions"], strict=True)
    return table[np.array([fingerprints.get((v, s)) == measured for v, s, measured in cells], dtype=bool)]


def fingerprint(run: Path) -> str:
    """Return a hash of a run's predictions, which retraining changes; empty if they are missing."""
    path = run / "predictions.parquet"
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


# ---- the section


class Robustness(NamedTuple):
    """Measurements of a study's present models, and the runs without any."""

    table: pd.DataFrame
    missing: list[str]

    @property
    def measures(self) -> dict[str, str]:
        """What is varied, by corruption."""
        corrupted = self.table[self.table["corruption"] != CLEAN]
        return dict(zip(corrupted["corruption"], corrupted["measure"], strict=True))

    def chart(self, variants: Sequence[str]) -> Chart:
        """Return the chart of accuracy against strength; the order of `variants` decides their colors."""
        title = "Accuracy against strength for each corruption and variant."
        return Chart("curves_of_robustness", title, lambda _, layout: draw_curves(self, variants, layout))


def read_robustness(study: Path, runs: Sequence[FinishedRun | Run]) -> Robustness | None:
    """Return the measurements of these runs in a study's folder; None if nothing was ever measured there.

    Measurements of runs that were retrained since are dropped. Curves must be comparable, so the table is limited to
    the number of images that most runs were tested on, and to corruptions that all of those runs were tested on.
    """
    kept = read_kept(study)
    if kept.empty:
        return None
    table = current(kept, runs)
    if not table.empty:
        parts = (part for _, part in table.groupby("images"))
        table = max(parts, key=lambda part: (len(_runs(part)), part.index[-1]))
        whole = [name for name, part in table.groupby("corruption") if _runs(part) == _runs(table)]
        table = table[table["corruption"].isin(whole)]
    missing = [f"{run.variant}, seed {run.seed}" for run in runs if (run.variant, run.seed) not in _runs(table)]
    return Robustness(table, missing)


def _runs(table: pd.DataFrame) -> set[tuple[str, int]]:
    return set(zip(table["variant"], table["seed"].astype(int), strict=True))


def robustness_section(
    results: StudyResults, robustness: Robustness | None, drawing: Drawing | None, folder: Path
) -> Section:
    """Return the section; without parts if nothing was measured."""
    parts: list[Part] = []
    if robustness and drawing:
        images = int(robustness.table["images"].iloc[0])
        sample = f" on {counted(images, 'image')}, stratified by class" if images < len(results.labels) else ""
        parts = [
            Figure(
                drawing,
                "Accuracy on increasingly corrupted test images, identical for every model. Line: mean over seeds. "
                "Band: minimum to maximum. Nothing was selected by these numbers.",
            ),
            robustness_table(robustness, {result.variant: result.index for result in results.ranking}),
            Note(
                f"Mean over strengths and seeds{sample}. Noise, blur, contrast and JPEG follow ImageNet-C (Hendrycks "
                "and Dietterich 2019), except that the σ of the blur scales with the image's side. Resolution: bicubic "
                "downsampling and upsampling. Occlusion fills random squares of an 8 × 8 grid with the image's mean "
                "color."
            ),
        ]
    if robustness and robustness.missing:
        parts += [
            Text(f"Not measured for the present models: {'; '.join(robustness.missing)}. Measure, then compare again:"),
            Code(f"python -m vitlab robustness --study {shlex.quote(str(folder))}"),
        ]
    return Section("Robustness", parts)


def robustness_table(robustness: Robustness, indices: dict[str, int]) -> Table:
    """Return mean accuracy by variant and corruption; `indices` has the variants in order, with their colors."""
    digits = TOP1.digits([], [], int(robustness.table["images"].iloc[0]))
    accuracies, rows = summary(robustness.table, [CLEAN, *robustness.measures]), []
    for variant in (variant for variant in indices if variant in accuracies):
        cells = [Cell(percent(each.mean, digits), title=TOP1.bracket(each, digits)) for each in accuracies[variant]]
        rows.append(Row(variant, cells, indices[variant]))
    return Table("Robustness", ["Accuracy, %", "clean", *robustness.measures], rows)


def summary(table: pd.DataFrame, corruptions: Sequence[str]) -> dict[str, list[Interval]]:
    """Return by variant, for each corruption, the accuracy averaged over strengths, with its interval over seeds."""
    by_run = table.groupby(["variant", "corruption", "seed"])["top1"].mean()
    step = 1 / float(table["images"].iloc[0])
    return {
        variant: [t_interval(by_run[variant, name].to_numpy(), step).within(0, 1) for name in corruptions]
        for variant in table["variant"].unique()
    }


def draw_curves(robustness: Robustness, variants: Sequence[str], layout: Layout) -> Drawn:
    """Draw accuracy against strength for each corruption: the mean over seeds, and a band from minimum to maximum.

    The first point of each curve is accuracy on clean images.
    """
    table, measures = robustness.table, robustness.measures
    columns = min(2 * layout.columns - 1, len(measures))
    figure, panels = panels_of(Layout(layout.width, columns), len(measures), 210, share_y=True)
    for axes, (name, measure) in zip(panels, measures.items(), strict=True):
        strengths = table[table["corruption"] == name]["strength"].unique()  # the mildest first
        for variant, runs in table.groupby("variant", sort=False):
            by_kind = 100 * runs.groupby(["corruption", "strength"])["top1"].agg(["mean", "min", "max"])
            rows = pd.concat([by_kind.loc[CLEAN], by_kind.loc[name].loc[strengths]])
            mean, low, high = rows[["mean", "min", "max"]].to_numpy().T
            draw_curve(axes, np.arange(len(mean)), mean, low, high, str(variant), list(variants).index(str(variant)))
        axes.set_xticks(range(len(strengths) + 1), ["none", *(f"{s:.2g}" for s in strengths)])
        axes.set_title(name)
        axes.set_xlabel(measure)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[::columns]:
        axes.set_ylabel("accuracy, %")
    put_legend(figure, panels[0], layout)
    return figure
