"""How a study's models stand up to spoilt images: curves of accuracy against strength, on a page and in the report."""

import base64
import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd

from vitlab.studies import format as formats
from vitlab.studies.report.figures import STYLE, WIDE, robustness_curves, strengths_of
from vitlab.studies.report.rendering import render
from vitlab.studies.robustness import CLEAN, FinishedRun, current, read_kept
from vitlab.studies.statistics.intervals import Interval, t_interval
from vitlab.studies.study import slug

log = logging.getLogger("vitlab")

FOLDER = "robustness"
"""In the study's: where the report looks for what was measured."""


class Robustness(NamedTuple):
    """What was measured of a study's runs as they are now, and which of them it was not measured of."""

    table: pd.DataFrame
    missing: list[str]

    @property
    def measures(self) -> dict[str, str]:
        """By corruption, what its strengths are."""
        spoilt = self.table[self.table["corruption"] != CLEAN]
        if spoilt.empty:
            return {}
        return dict(zip(spoilt["corruption"], spoilt["measure"], strict=True))


def finished_runs(study: Path) -> tuple[list[FinishedRun], list[str]]:
    """Return the finished runs of a study's folder, in the report's order, and which of the others why are left out.

    Raises:
        FileNotFoundError: not the folder of a study that was run.
        ValueError: no run is finished.
    """
    path = study / "results.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"--study {study}: no {path.name} there; give the folder of a study, as in runs/quickstart."
        )
    table = pd.read_csv(path, dtype={"variant": str})
    runs, left_out = [], []
    for variant, seed, status in zip(table["variant"], table["seed"].astype(int), table["status"], strict=True):
        if status == "finished":
            runs.append(FinishedRun(variant, seed, study / slug(variant) / f"seed-{seed}"))
        else:
            left_out.append(f"{variant}, seed {seed}: {status}")
    if not runs:
        raise ValueError(f"--study {study}: none of its runs is finished; {path} says why.")
    return runs, left_out


def write_robustness(
    table: pd.DataFrame, of: int, left_out: Sequence[str], study: Path, out: Path, command: str
) -> Path:
    """Write `robustness.png` and the page `index.html`, whose path is returned.

    Args:
        table: rows of `robustness.csv` (`spoilt_images`), the variants in the study's order.
        of: so many test images there are.
        left_out: runs of the study that are not in the table, and why.
        command: what measures them.
    """
    out.mkdir(parents=True, exist_ok=True)
    measures = Robustness(table, []).measures
    variants = pd.read_csv(study / "results.csv", dtype={"variant": str})["variant"].unique().tolist()
    with matplotlib.rc_context(STYLE):
        png = io.BytesIO()
        robustness_curves(table, measures, variants, WIDE).savefig(png, format="png", dpi=120, facecolor="white")
    (out / "robustness.png").write_bytes(png.getvalue())
    images = int(table["images"].iloc[0])
    context = {
        "study": study.name,
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "images": images,
        "of": of,
        "digits": formats.digits_for(images),
        "seeds": table.groupby("variant")["seed"].nunique().max(),
        "figure": base64.b64encode(png.getvalue()).decode(),
        "corruptions": {name: (text, strengths_of(table, name)) for name, text in measures.items()},
        "rows": summary(table, [CLEAN, *measures]),
        "left_out": left_out,
    }
    (out / "index.html").write_text(render("robustness.html.jinja", context), encoding="utf-8")
    if out.resolve() == (study / FOLDER).resolve():
        log.info(
            "The study's report has these curves after its `compare` again, which trains nothing that is finished."
        )
    return out / "index.html"


def read_robustness(study: Path, runs: Sequence[FinishedRun]) -> Robustness | None:
    """Return what was measured in a study's folder of these runs; None where nothing was.

    What was measured of a run that has been trained again since is left out, and so are other numbers of images than
    the one that most runs were tested on, and corruptions that not all of those runs were tested on.
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
