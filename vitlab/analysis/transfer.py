"""Tables and figures of a trained model at other image sizes, like Swin v2's Table 1.

Windows grow in proportion. Swin v2 (Liu et al. 2022, https://arxiv.org/abs/2111.09883) measures offsets in the window
of the training, so that its continuous bias extrapolates; a table of biases is interpolated, as are a ViT's positions.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlab.analysis.canvas import COLORS, new_figure, styled, write_png
from vitlab.atomic_files import write_text

# Swin-T, trained on ImageNet-1k at 256 px with windows of 8: tested directly, and after 30 epochs at the larger size.
PUBLISHED_AT = (256, 384, 512, 640, 768)
PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # top-1 in percent
    "parametrized": ((81.7, 79.4, 77.2, 73.2, 68.7), (82.7, 83.0, 83.2, 83.2)),
    "linear": ((81.7, 82.0, 81.2, 79.8, 77.6), (82.9, 83.3, 83.6, 83.7)),
    "log": ((81.8, 82.4, 81.7, 80.4, 79.1), (83.2, 83.8, 84.0, 84.2)),
}
SOURCE = "Liu et al. 2022, Table 1: Swin-T on ImageNet-1k, trained at 256 px with windows of 8"

FILE = "transfer.csv"
TUNED = ["tuned", "tuned_low", "tuned_high"]
TEXT = ["key", "name", "window", "bias", "partial"]
LR_SHARE = 0.04  # of the training's learning rate, for fine-tuning at another size: the paper's 4e-5 after 1e-3
WARMUP_SHARE = 1 / 6  # of the epochs: 5 of 30 in the official configurations


def asks_what_the_paper_asks(table: pd.DataFrame) -> bool:
    """Say whether position biases are compared, so that the published table is about the same question."""
    return len(set(table["bias"]) - {""}) > 1


def write_transfer(table: pd.DataFrame, out: Path) -> None:
    """Write `transfer.csv`, `transfer.png` and `transfer.md`.

    Args:
        table: one row per run and size: `key`, `name` and `seed` of the run, `trained_at` and `image_size` in px,
            `window`, `bias`, number of test `images`, `partial` (why the run is incomplete, or empty), and accuracies
            in [0, 1] with their intervals: `direct`, `direct_low`, `direct_high`, and with fine-tuning `tuned`,
            `tuned_low`, `tuned_high`. Rows with the same `key` measure the same.
    """
    table = table.reindex(columns=[*table.columns.drop(TUNED, errors="ignore"), *TUNED])
    write_text(out / FILE, table.to_csv(index=False))
    write_png(draw_transfer(table), out / "transfer.png")
    write_text(out / "transfer.md", markdown(table))


def read_transfer(out: Path) -> list[dict[str, Any]]:
    """Return the rows that `write_transfer` wrote; none if there is no table, or one of an older version."""
    if not (out / FILE).is_file():
        return []
    table = pd.read_csv(out / FILE, dtype=dict.fromkeys(TEXT, str))
    if "key" not in table:
        return []
    table = table.fillna(dict.fromkeys(TEXT, ""))
    return [dict(zip(table.columns, row, strict=True)) for row in table.itertuples(index=False)]


def over_seeds(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Return `mean`, `low` and `high` of an accuracy by (name, size): over seeds, or a single run's own interval."""
    groups = table.dropna(subset=kind).groupby(["name", "image_size"], sort=False)
    found = groups.agg(mean=(kind, "mean"), low=(kind, "min"), high=(kind, "max"), seeds=(kind, "size"))
    single = groups.agg(low=(f"{kind}_low", "first"), high=(f"{kind}_high", "first"))[found["seeds"] == 1]
    found.update(single)
    return found


def markdown(table: pd.DataFrame) -> str:
    """Return the measured table in the paper's form: direct → after fine-tuning; the paper's too where it is of use."""
    sizes = sorted(table["image_size"].unique())
    direct, tuned = over_seeds(table, "direct"), over_seeds(table, "tuned")
    rows = []
    for name, runs in table.groupby("name", sort=False):
        cells = []
        for key in ((name, size) for size in sizes):
            as_is = direct.loc[key] * 100 if key in direct.index else None
            cell = "" if as_is is None else f"{as_is['mean']:.1f} [{as_is['low']:.1f}, {as_is['high']:.1f}]"
            cells.append(cell + (f" → {100 * tuned.loc[key, 'mean']:.1f}" if key in tuned.index else ""))
        windows = runs.drop_duplicates("image_size").sort_values("image_size")["window"]
        rows.append([f"{name} ({', '.join(windows)})" if all(windows) else str(name), *cells])
    seeds, images = table.groupby("name")["seed"].nunique().max(), int(table["images"].iloc[0])
    spread = f"mean of {seeds} seeds [lowest, highest]" if seeds > 1 else "[95 % interval of Wilson]"
    short = table[table["partial"] != ""].drop_duplicates(["name", "seed"])
    runs_cut_short = [f"{r['name']}, seed {r['seed']} ({r['partial']})" for _, r in short.iterrows()]
    return "\n".join(
        [
            "# Trained at one size, tested at others",
            "",
            f"Top-1 in % on {images:,} test images, {spread}: as trained, windows grown with the images, "
            "→ after fine-tuning there, where that was asked for. In brackets the windows of the first stage.",
            "",
            *_rows(["", *(f"{size} px" for size in sizes)], rows),
            "",
            *(f"**Not a whole run, so no result: {run}.**\n" for run in runs_cut_short),
            *(_published() if asks_what_the_paper_asks(table) else []),
        ]
    )


def _published() -> list[str]:
    rows = [
        [name, f"{first[0]}", *(f"{as_is} → {after}" for as_is, after in zip(first[1:], then, strict=True))]
        for name, (first, then) in PUBLISHED.items()
    ]
    return [
        "## The paper's table, of other images",
        "",
        f"{SOURCE}. It compares the same position biases: their order and how far they fall can be set beside the "
        "above, the numbers cannot.",
        "",
        *_rows(["position bias", *(f"{size} px" for size in PUBLISHED_AT)], rows),
        "",
    ]


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


@styled
def draw_transfer(table: pd.DataFrame) -> Figure:
    """Draw accuracy against image size, direct and after fine-tuning; the published curves beside it where of use."""
    published = PUBLISHED if asks_what_the_paper_asks(table) else {}
    names = list(dict.fromkeys([*table["name"], *published]))
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}
    panels = 2 if published else 1
    figure = new_figure(4.8 * panels, 4.0)
    ours, *theirs = figure.subplots(1, panels, squeeze=False).flat
    for kind, line in (("direct", "o-"), ("tuned", "s--")):
        for name, curve in over_seeds(table, kind).groupby("name", sort=False):
            curve = 100 * curve.droplevel("name").sort_index()
            ours.plot(curve.index, curve["mean"], line, color=colors[str(name)], label=_label(str(name), kind))
            ours.fill_between(
                curve.index, curve["low"], curve["high"], color=colors[str(name)], alpha=0.15, linewidth=0
            )
    _finish(ours, "measured", sorted(table["image_size"].unique()))
    for axes in theirs:
        for name, (direct, tuned) in published.items():
            axes.plot(PUBLISHED_AT, direct, "o-", color=colors[name], label=_label(name, "direct"))
            axes.plot(PUBLISHED_AT[1:], tuned, "s--", color=colors[name], label=_label(name, "tuned"))
        _finish(axes, "published: ImageNet-1k (Swin v2, Table 1)", PUBLISHED_AT)
    ours.set_ylabel("test accuracy, %")
    return figure


def _label(name: str, kind: str) -> str:
    return name if kind == "direct" else f"{name}, fine-tuned"


def _finish(axes: Axes, title: str, sizes: Any) -> None:
    axes.set(title=title, xlabel="image size, px", xticks=sizes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
