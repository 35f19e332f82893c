"""How a study's models stand up to spoilt images: curves of accuracy against strength, on a page and in the report."""

import base64
import io
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vitlab.studies import format as wording
from vitlab.studies.report.figures import COLORS, DASHES, MARKERS, PX, STYLE, WIDE, Layout, legend
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
        draw_curves(table, measures, variants, WIDE).savefig(png, format="png", dpi=120, facecolor="white")
    (out / "robustness.png").write_bytes(png.getvalue())
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    images = int(table["images"].iloc[0])
    templates.filters |= {"percent": wording.percent, "bracket": wording.bracket, "counted": wording.counted}
    page = templates.get_template("robustness.html.jinja").render(
        study=study.name,
        date=time.strftime("%Y-%m-%d"),
        command=command,
        images=images,
        of=of,
        digits=wording.digits_for(images),
        seeds=table.groupby("variant")["seed"].nunique().max(),
        figure=base64.b64encode(png.getvalue()).decode(),
        corruptions={name: (text, _strengths(table, name)) for name, text in measures.items()},
        rows=summary(table, [CLEAN, *measures]),
        left_out=left_out,
    )
    (out / "index.html").write_text(page, encoding="utf-8")
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


def draw_curves(table: pd.DataFrame, measures: dict[str, str], variants: Sequence[str], layout: Layout) -> Figure:
    """Draw accuracy against strength for each corruption: the mean over seeds, the band from lowest to highest.

    The first point of each curve is of the images as they are.

    Args:
        variants: all of the study, whose order decides colors.
    """
    columns = min(2 * layout.columns - 1, len(measures))
    rows = -(-len(measures) // columns)
    figure = Figure(figsize=(layout.width * PX, (210 * rows + 30) * PX), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in panels.flat[len(measures) :]:
        axes.set_axis_off()
    for axes, (name, measure) in zip(panels.flat, measures.items(), strict=False):
        strengths = _strengths(table, name)
        for variant in table["variant"].unique():
            runs = table[table["variant"] == variant]
            clean = runs[runs["corruption"] == CLEAN]["top1"]
            spoilt = runs[runs["corruption"] == name].groupby("strength")["top1"]
            means, lows, highs = (
                [100 * part(clean), *(100 * part(spoilt).loc[strengths])]
                for part in (lambda x: x.mean(), lambda x: x.min(), lambda x: x.max())
            )
            which = list(variants).index(variant) % len(COLORS)
            style = {"color": COLORS[which], "marker": MARKERS[which], "linestyle": DASHES[which]}
            axes.plot(range(len(means)), means, markersize=5, linewidth=1.6, label=variant, **style)
            axes.fill_between(range(len(means)), lows, highs, color=COLORS[which], alpha=0.18, linewidth=0)
        axes.set_xticks(range(len(strengths) + 1), ["none", *(f"{s:.2g}" for s in strengths)])
        axes.set_title(name)
        axes.set_xlabel(measure)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    for axes in panels[:, 0]:
        axes.set_ylabel("accuracy, %")
    legend(figure, panels.flat[0], layout)
    return figure


def _strengths(table: pd.DataFrame, corruption: str) -> list[float]:
    """Return a corruption's strengths, from the one that spoils least."""
    return list(dict.fromkeys(table[table["corruption"] == corruption]["strength"]))
