"""Robustness of a study's models: accuracy against corruption strength, as a page and in the report."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure as Drawn
from referee.formats import counted, percent
from referee.report.document import Cell, Code, Document, Figure, Note, Part, Row, Section, Table, render
from referee.report.drawing import Chart, Layout, draw
from referee.statistics.intervals import Interval, t_interval

from vitlab.evaluation.spreadsheet import exact
from vitlab.studies.format import digits_for
from vitlab.studies.metric import TOP1
from vitlab.studies.report.figures import robustness_curves, strengths_of
from vitlab.studies.robustness import CLEAN, FinishedRun, current, read_kept
from vitlab.studies.study import slug

log = logging.getLogger("vitlab")

FOLDER = "robustness"
"""In the study's folder, where the report looks for the measurements."""


class Robustness(NamedTuple):
    """Measurements of a study's present models, and the runs without any."""

    table: pd.DataFrame
    missing: list[str]

    @property
    def measures(self) -> dict[str, str]:
        """What is varied, by corruption."""
        corrupted = self.table[self.table["corruption"] != CLEAN]
        return dict(zip(corrupted["corruption"], corrupted["measure"], strict=True))

    def chart(self, name: str, variants: Sequence[str]) -> Chart:
        """Return the chart of accuracy against strength; the order of `variants` decides their colors."""

        def curves(_: object, layout: Layout) -> Drawn:
            return robustness_curves(self.table, self.measures, variants, layout)

        return Chart(name, "Accuracy against strength for each corruption and variant.", curves)


def finished_runs(study: Path) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs of a study's folder, in the report's order, and why the others are excluded.

    Raises:
        FileNotFoundError: not the folder of a finished study.
        ValueError: no run finished.
    """
    path = study / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"--study {study}: contains no {path.name}. Expected the folder of a finished study, like runs/quickstart."
        )
    table = read_table(path)
    runs, excluded = [], []
    for variant, seed, status in zip(table["variant"], table["seed"].astype(int), table["status"], strict=True):
        if status == "finished":
            inside = study / slug(variant)
            beside = study.with_name(f"{slug(variant)}-{study.name}")  # of a place on an axis
            runs.append(FinishedRun(variant, seed, (inside if inside.is_dir() else beside) / f"seed-{seed}"))
        else:
            excluded.append(f"{variant}, seed {seed}: {status}")
    if not runs:
        raise ValueError(f"--study {study}: none of its runs finished; see {path}.")
    return runs, excluded


def read_table(path: Path) -> pd.DataFrame:
    """Read a results.csv, in which a variant may be called None."""
    return exact(pd.read_csv(path, dtype={"variant": str}, keep_default_na=False))


def write_robustness(
    table: pd.DataFrame, total: int, excluded: Sequence[str], study: Path, out: Path, command: str
) -> Path:
    """Write `robustness.png` and the page `index.html`, whose path is returned.

    Args:
        table: Rows of `robustness.csv`, the variants in the study's order.
        total: Number of test images, of which `table` may have used a sample.
        excluded: Runs of the study that are not in the table, and why.
        command: What measures them.
    """
    out.mkdir(parents=True, exist_ok=True)
    robustness = Robustness(table, [])
    variants = read_table(study / "results.csv")["variant"].unique().tolist()
    images = int(table["images"].iloc[0])
    sample = f" of {total:,}, stratified by class" if images < total else ""
    seeds = counted(table.groupby("variant")["seed"].nunique().max(), "seed")
    strengths = [
        Row(name, (measure, ", ".join(f"{s:.2g}" for s in strengths_of(table, name))))
        for name, measure in robustness.measures.items()
    ]
    results: list[Part] = [
        Figure(
            draw(robustness.chart("robustness", variants), None, out),
            f"Line: mean over {seeds}. Band: minimum to maximum over seeds.",
        ),
        robustness_table(robustness, {name: i for i, name in enumerate(variants)}, intervals=True),
        Note(
            "Mean over strengths, in brackets the 95 % interval over seeds (Student's t). Where intervals overlap, the "
            "order may be due to chance."
        ),
    ]
    corruptions: list[Part] = [
        Table("Corruptions", ["Corruption", "Strength", "Values"], strengths, left=["Strength", "Values"]),
        Note(
            "Noise, blur, contrast and JPEG follow ImageNet-C (Hendrycks and Dietterich 2019), except that the σ of "
            "the blur scales with the image's side. Resolution: bicubic downsampling and upsampling. Occlusion fills "
            "random squares of an 8 × 8 grid with the image's mean color."
        ),
    ]
    document = Document(
        title=f"{study.name}: robustness",
        kicker=f"Study “{study.name}” · {time.strftime('%Y-%m-%d')}",
        heading="Accuracy on corrupted images",
        lead=[
            f"Top-1 accuracy in % on {counted(images, 'test image')}{sample}, corrupted identically for every model. "
            "The models were trained on clean images, and nothing was selected by these numbers."
        ],
        remarks=[f"Excluded: {run}" for run in excluded],
        sections=[
            Section("Results", results),
            Section("Corruptions", corruptions),
            Section("Reproduce", [Code(command)]),
        ],
    )
    (out / "index.html").write_text(render(document, "report.html"), encoding="utf-8")
    if out.resolve() == (study / FOLDER).resolve():
        log.info("`compare` adds these curves to the study's report; it does not repeat finished runs.")
    return out / "index.html"


def robustness_table(robustness: Robustness, indices: Mapping[str, int], intervals: bool) -> Table:
    """Return mean accuracy by variant and corruption; `indices` has the variants in order, with their colors."""
    digits = digits_for(int(robustness.table["images"].iloc[0]))
    accuracies = summary(robustness.table, [CLEAN, *robustness.measures])
    rows = []
    for variant, index in indices.items():
        cells: list[str | Cell] = []
        for accuracy in accuracies.get(variant, []):
            mean, bracket = percent(accuracy.mean, digits), TOP1.bracket(accuracy, digits)
            cells.append(f"{mean} {bracket}".rstrip() if intervals else Cell(mean, title=bracket))
        if cells:
            rows.append(Row(variant, cells, index))
    return Table("Robustness", ["Accuracy, %", "clean", *robustness.measures], rows)


def read_robustness(study: Path, runs: Sequence[FinishedRun]) -> Robustness | None:
    """Return the measurements of these runs in a study's folder; None if nothing was ever measured there.

    Measurements of runs that were retrained since are dropped. Curves must be comparable, so the table is limited to
    the number of images that most runs were tested on, and to corruptions that all of those runs were tested on.
    """
    kept = read_kept(study / FOLDER)
    if kept.empty:
        return None
    table = current(kept, runs)
    if not table.empty:
        table = max(
            (part for _, part in table.groupby("images")), key=lambda part: (len(set(_runs(part))), part.index[-1])
        )
        everyone = len(set(_runs(table)))
        whole = [name for name, part in table.groupby("corruption") if len(set(_runs(part))) == everyone]
        table = table[table["corruption"].isin(whole)]
    measured = set(_runs(table))
    missing = [f"{run.variant}, seed {run.seed}" for run in runs if (run.variant, run.seed) not in measured]
    return Robustness(table, missing)


def _runs(table: pd.DataFrame) -> list[tuple[str, int]]:
    return list(zip(table["variant"], table["seed"].astype(int), strict=True))


def summary(table: pd.DataFrame, corruptions: Sequence[str]) -> dict[str, list[Interval]]:
    """Return by variant, for each corruption, the accuracy averaged over strengths, with its interval over seeds."""
    by_run = table.groupby(["variant", "corruption", "seed"])["top1"].mean()
    step = 1 / float(table["images"].iloc[0])
    return {
        variant: [t_interval(by_run[variant, name].to_numpy(), step).within(0, 1) for name in corruptions]
        for variant in table["variant"].unique()
    }
