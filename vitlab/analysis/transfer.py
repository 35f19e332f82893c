"""Tables and figures of a trained model at other image sizes, like Swin v2's Table 1.

Windows grow with the image. Swin v2 (Liu et al. 2022, https://arxiv.org/abs/2111.09883) measures offsets relative to
the training window, so that its continuous bias extrapolates; a bias table is interpolated, as are a ViT's positions.
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
LR_SHARE = 0.04  # learning rate of fine-tuning relative to training: the paper's 4e-5 after 1e-3
WARMUP_SHARE = 1 / 6  # of the epochs: 5 of 30 in the official configurations


def asks_what_the_paper_asks(table: pd.DataFrame) -> bool:
    """Return whether position biases are compared, so that the published table answers the same question."""
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
    summary = groups.agg(mean=(kind, "mean"), low=(kind, "min"), high=(kind, "max"), seeds=(kind, "size"))
    summary.update(groups.agg(low=(f"{kind}_low", "first"), high=(f"{kind}_high", "first"))[summary["seeds"] == 1])
    return summary


def markdown(table: pd.DataFrame) -> str:
    """Return the table in the paper's form, direct → fine-tuned; where it is comparable, followed by the paper's."""
    sizes = sorted(table["image_size"].unique())
    direct, tuned = 100 * over_seeds(table, "direct"), 100 * over_seeds(table, "tuned")
    cells = {key: f"{r['mean']:.1f} [{r['low']:.1f}, {r['high']:.1f}]" for key, r in direct.iterrows()}
    for key, mean in tuned["mean"].items():
        cells[key] += f" → {mean:.1f}"
    rows = []
    for name, runs in table.groupby("name", sort=False):
        windows = runs.drop_duplicates("image_size").sort_values("image_size")["window"]
        label = f"{name} ({', '.join(windows)})" if all(windows) else str(name)
        rows.append([label, *(cells.get((name, size), "") for size in sizes)])
    seeds, images = table.groupby("name")["seed"].nunique().max(), int(table["images"].iloc[0])
    spread = f"mean of {seeds} seeds [lowest, highest]" if seeds > 1 else "[95 % Wilson interval]"
    incomplete = table.loc[table["partial"] != "", ["name", "seed", "partial"]].drop_duplicates()
    lines = [
        "# Trained at one size, tested at others",
        "",
        f"Top-1 accuracy in % on {images:,} test images, {spread}: as trained, with windows in proportion to the "
        "image, → after fine-tuning at that size. In parentheses: the windows of the first stage.",
        "",
        *_rows(["", *(f"{size} px" for size in sizes)], rows),
        "",
        *(f"**Incomplete run, not a result: {name}, seed {seed} ({why}).**\n" for name, seed, why in incomplete.values),
    ]
    if asks_what_the_paper_asks(table):
        published = [
            [name, f"{first[0]}", *(f"{as_is} → {after}" for as_is, after in zip(first[1:], then, strict=True))]
            for name, (first, then) in PUBLISHED.items()
        ]
        lines += [
            "## The paper's table, on other images",
            "",
            f"{SOURCE}. It compares the same position biases: their order and how much they lose are comparable with "
            "the table above, the numbers are not.",
            "",
            *_rows(["position bias", *(f"{size} px" for size in PUBLISHED_AT)], published),
            "",
        ]
    return "\n".join(lines)


def _rows(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows]]


@styled
def draw_transfer(table: pd.DataFrame) -> Figure:
    """Draw accuracy against image size, direct and fine-tuned; where comparable, also the published curves."""
    published = PUBLISHED if asks_what_the_paper_asks(table) else {}
    names = list(dict.fromkeys([*table["name"], *published]))
    colors = {name: COLORS[index % len(COLORS)] for index, name in enumerate(names)}
    panels = 2 if published else 1
    figure = new_figure(4.8 * panels, 4.0)
    ours, *theirs = figure.subplots(1, panels, squeeze=False).flat
    for kind, line, suffix in (("direct", "o-", ""), ("tuned", "s--", ", fine-tuned")):
        for name, curve in over_seeds(table, kind).groupby("name", sort=False):
            curve, color = 100 * curve.droplevel("name").sort_index(), colors[str(name)]
            ours.plot(curve.index, curve["mean"], line, color=color, label=f"{name}{suffix}")
            ours.fill_between(curve.index, curve["low"], curve["high"], color=color, alpha=0.15, linewidth=0)
        for axes in theirs:
            for name, curves in published.items():
                top1 = curves[kind == "tuned"]
                axes.plot(PUBLISHED_AT[-len(top1) :], top1, line, color=colors[name], label=f"{name}{suffix}")
    _finish(ours, "measured", sorted(table["image_size"].unique()))
    for axes in theirs:
        _finish(axes, "published: ImageNet-1k (Swin v2, Table 1)", PUBLISHED_AT)
    ours.set_ylabel("test accuracy, %")
    return figure


def _finish(axes: Axes, title: str, sizes: Any) -> None:
    axes.set(title=title, xlabel="image size, px", xticks=sizes)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
