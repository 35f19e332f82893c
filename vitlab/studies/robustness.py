"""How a study's models stand up to spoilt images: curves of accuracy against strength, and a page with them."""

import base64
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitlab.studies import wording
from vitlab.studies.figures import COLOURS, DASHES, MARKERS, STYLE
from vitlab.studies.grid import slug
from vitlab.studies.intervals import Interval, t_interval

CLEAN = "none"
"""What the column `corruption` says of the images as they are."""


class FinishedRun(NamedTuple):
    """A run of a study, by its directory."""

    variant: str
    seed: int
    directory: Path


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
    table: pd.DataFrame, measures: dict[str, str], left_out: Sequence[str], study: Path, out: Path
) -> Path:
    """Write `robustness.csv`, `robustness.png` and the page `index.html`, whose path is returned.

    Args:
        table: a row a run, corruption and strength: `variant` (in the study's order), `seed`, `corruption`, `strength`,
            `images`, `top1` from 0 to 1. The row of the images as they are has the corruption `CLEAN`.
        measures: by corruption, what its strengths are.
        left_out: runs of the study that are not in the table, and why.
    """
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "robustness.csv", index=False)
    with matplotlib.rc_context(STYLE):
        png = io.BytesIO()
        draw_curves(table, measures).savefig(png, format="png", dpi=120, facecolor="white")
    (out / "robustness.png").write_bytes(png.getvalue())
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    images = int(table["images"].iloc[0])
    templates.filters |= {"percent": wording.percent, "bracket": wording.bracket}
    page = templates.get_template("robustness.html.jinja").render(
        study=study.name,
        date=time.strftime("%Y-%m-%d"),
        command=f"python -m vitlab robustness --study {study}",
        images=images,
        digits=wording.digits_for(images),
        seeds=table.groupby("variant")["seed"].nunique().max(),
        figure=base64.b64encode(png.getvalue()).decode(),
        corruptions={name: (text, _strengths(table, name)) for name, text in measures.items()},
        rows=summary(table, [CLEAN, *measures]),
        left_out=left_out,
    )
    (out / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def summary(table: pd.DataFrame, corruptions: Sequence[str]) -> dict[str, list[Interval]]:
    """Return by variant, for each corruption, the accuracy averaged over strengths, with its interval over seeds."""
    by_run = table.groupby(["variant", "corruption", "seed"])["top1"].mean()
    step = 1 / float(table["images"].iloc[0])
    return {
        variant: [t_interval(by_run[variant, name].to_numpy(), step).within(0, 1) for name in corruptions]
        for variant in table["variant"].unique()
    }


def draw_curves(table: pd.DataFrame, measures: dict[str, str]) -> Figure:
    """Draw accuracy against strength for each corruption: the mean over seeds, the band from lowest to highest.

    The first point of each curve is of the images as they are.
    """
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(3.7 * columns, 2.9 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(measures) :]:
        axes.set_axis_off()
    for axes, (name, measure) in zip(panels.flat, measures.items(), strict=False):
        strengths = _strengths(table, name)
        for index, variant in enumerate(table["variant"].unique()):
            runs = table[table["variant"] == variant]
            clean = runs[runs["corruption"] == CLEAN]["top1"]
            spoilt = runs[runs["corruption"] == name].groupby("strength")["top1"]
            means, lows, highs = (
                [100 * part(clean), *(100 * part(spoilt).loc[strengths])]
                for part in (lambda x: x.mean(), lambda x: x.min(), lambda x: x.max())
            )
            which = index % len(COLOURS)
            style = {"color": COLOURS[which], "marker": MARKERS[which], "linestyle": DASHES[which]}
            axes.plot(range(len(means)), means, markersize=5, linewidth=1.6, label=variant, **style)
            axes.fill_between(range(len(means)), lows, highs, color=COLOURS[which], alpha=0.18, linewidth=0)
        axes.set_xticks(range(len(strengths) + 1), ["none", *(f"{s:.2g}" for s in strengths)])
        axes.set_title(name)
        axes.set_xlabel(measure)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(labels), handlelength=2.6)
    return figure


def _strengths(table: pd.DataFrame, corruption: str) -> list[float]:
    """Return a corruption's strengths, from the one that spoils least."""
    return list(dict.fromkeys(table[table["corruption"] == corruption]["strength"]))
