"""A trained model at other image sizes, its windows grown in proportion: Swin v2's Table 1 in kind.

Swin v2 (Liu et al. 2022, https://arxiv.org/abs/2111.09883) measures offsets in the window of the training, so that a
larger one asks its continuous bias for offsets beyond those trained on; a table of biases is interpolated. A ViT's
positions are interpolated too.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitlab.analysis.canvas import COLORS, new_figure, styled, write_png
from vitlab.models import Backbone, SwinTransformerV2
from vitlab.models.hierarchy import HierarchicalBackbone
from vitlab.models.swin_v2 import LinearSpacedBias, LogSpacedBias, TableBias
from vitlab.models.windows import clamp_window, stage_maps

# Swin-T, trained on ImageNet-1k at 256 px with windows of 8, then as it is and after 30 epochs at the larger size.
PUBLISHED_AT = (256, 384, 512, 640, 768)
PUBLISHED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {  # top-1 in per cent
    "parametrized": ((81.7, 79.4, 77.2, 73.2, 68.7), (82.7, 83.0, 83.2, 83.2)),
    "linear": ((81.7, 82.0, 81.2, 79.8, 77.6), (82.9, 83.3, 83.6, 83.7)),
    "log": ((81.8, 82.4, 81.7, 80.4, 79.1), (83.2, 83.8, 84.0, 84.2)),
}
SOURCE = "Liu et al. 2022, Table 1: Swin-T on ImageNet-1k, trained at 256 px with windows of 8"
BIASES = {TableBias: "parametrized", LinearSpacedBias: "linear", LogSpacedBias: "log"}

TUNED = ["tuned", "tuned_low", "tuned_high"]
LR_SHARE = 0.04  # of the training's rate, for fine-tuning at another size: the paper's 4e-5 after 1e-3
WARMUP_SHARE = 1 / 6  # of the epochs: the official configurations' 5 of 30


def arguments_at(image_size: int, model: Backbone, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a backbone's arguments must become for images of another size.

    Args:
        model: as trained.
        arguments: those that it was built with.

    Raises:
        ValueError: the size does not divide into the patches of a Swin.
    """
    changes: dict[str, Any] = {"img_size": image_size}
    if isinstance(model, HierarchicalBackbone):
        resized = copy.deepcopy(model)
        resized.set_input_size(image_size)
        windows = resized.windows
        same = len(set(windows)) == 1
        changes["window_size"] = list(windows[0]) if same else [height for height, _ in windows]
    if isinstance(model, SwinTransformerV2):
        # Without these the new window would be the measure of offsets, and nothing be extrapolated. A run that began
        # from another window keeps what it was trained with.
        given = arguments["pretrained_window_sizes"]
        changes["pretrained_window_sizes"] = [
            side or height for side, (height, _) in zip(given, clamped_windows(model), strict=False)
        ]
    return changes


def clamped_windows(model: HierarchicalBackbone) -> list[tuple[int, int]]:
    """Return each stage's window (height, width), cut down to the stage's map."""
    maps = stage_maps(model.patch_embed.grid_size, len(model.windows))
    return [clamp_window(size, window)[0] for size, window in zip(maps, model.windows, strict=True)]


def describe_window(model: Backbone) -> str:
    """Return the side of the first stage's window, or height × width; nothing for a ViT."""
    if not isinstance(model, HierarchicalBackbone):
        return ""
    return "×".join(map(str, dict.fromkeys(clamped_windows(model)[0])))


def describe_bias(model: Backbone) -> str:
    """Return what the paper's table calls a Swin v2's position bias; nothing for another model."""
    if not isinstance(model, SwinTransformerV2):
        return ""
    bias = type(model.get_submodule("layers.0.blocks.0.attn.cpb_mlp"))
    return next((name for kind, name in BIASES.items() if bias is kind), "")


def asks_what_the_paper_asks(table: pd.DataFrame) -> bool:
    """Say whether position biases are compared, so that the published table is about the same question."""
    return len(set(table["bias"]) - {""}) > 1


def write_transfer(table: pd.DataFrame, out: Path) -> Path:
    """Write `transfer.csv`, `transfer.png` and `transfer.md`, whose path is returned.

    Args:
        table: a row a run and size: `name` and `seed` of the run, `trained_at` and `image_size` in px, `window`,
            `bias`, test `images`, `partial` (why the run is not a whole one, or nothing), and the accuracies `direct`
            and, where there was fine-tuning, `tuned` from 0 to 1 with their intervals, `direct_low`, `direct_high`,
            `tuned_low`, `tuned_high`.
    """
    table = table.reindex(columns=[*table.columns.drop(TUNED, errors="ignore"), *TUNED])
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "transfer.csv", index=False)
    write_png(draw_transfer(table), out / "transfer.png")
    (out / "transfer.md").write_text(markdown(table), encoding="utf-8")
    return out / "transfer.md"


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
