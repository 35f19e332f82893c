"""k-NN of pre-trainings over the minutes and over the operations of their training, as a figure.

    python -m benchmarks.knn_figure docs/records/pretraining-track/five-epochs/{LeJEPA,DINO,MSN,MAE,SimMIM}/seed-*

Each folder is that of a run, and those of one parent are seeds of one method, which its name labels. The time of a core
depends on what else runs there, the number of operations does not.
"""

import argparse
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
import yaml
from matplotlib.figure import Figure
from referee.report.drawing import COLORS


def curve(folder: Path) -> pd.DataFrame:
    """Return minutes, TFLOP and k-NN in % after each epoch that measured it, the untrained network first."""
    table = pd.read_csv(folder / "metrics.csv").groupby("epoch").first().reset_index()
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    images = (table["step"].iloc[0] + 1) * config["data"]["init_args"]["batch_size"]  # of an epoch
    table["minutes"] = (images / table["images_per_second"]).cumsum() / 60
    table["tflop"] = (images / table["images_per_second"] * table["tflops"]).cumsum()
    measured = table[table["val/knn"].notna()]
    start = {"minutes": 0.0, "tflop": 0.0, "val/knn": measured["val/knn_untrained"].iloc[0]}
    table = pd.concat([pd.DataFrame([start]), measured[list(start)]], ignore_index=True)
    return table.assign(knn=100 * table["val/knn"])


def draw(folders: Sequence[Path]) -> Figure:
    """Draw the mean of each method's seeds with their range, in two panels, and raw pixels."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for color, name in zip(cycle(COLORS), dict.fromkeys(folder.parent.name for folder in folders), strict=False):
        seeds = pd.concat([curve(folder) for folder in folders if folder.parent.name == name]).groupby(level=0)
        mean, low, high = seeds.mean(), seeds["knn"].min(), seeds["knn"].max()
        for panel, column in zip(panels, ("minutes", "tflop"), strict=True):
            panel.plot(mean[column], mean["knn"], marker="o", markersize=4, color=color)
            panel.fill_between(mean[column], low, high, color=color, alpha=0.25, linewidth=0)
        end = mean[["tflop", "knn"]].iloc[-1]
        panels[1].annotate(name.replace("-", " "), end, (6, -3), textcoords="offset points")
    pixels = 100 * pd.read_csv(folders[0] / "metrics.csv")["val/knn_pixels"].max()
    for panel, label in zip(panels, ("minutes of a core", "TFLOP"), strict=True):
        panel.axhline(pixels, color="gray", linestyle="--")
        panel.set(xlabel=label, xlim=(0, None))
        panel.spines[["top", "right"]].set_visible(False)
    place = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
    panels[0].annotate("raw pixels", (1, pixels), (0, 4), **place)
    panels[0].set_ylabel("validation k-NN, %")
    panels[1].margins(x=0.2)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw knn_over_time.png."""
    parser = argparse.ArgumentParser("python -m benchmarks.knn_figure", description=__doc__.partition("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of knn_over_time.png [docs]")
    options = parser.parse_args(arguments)
    draw(options.folders).savefig(options.out / "knn_over_time.png", dpi=150)


if __name__ == "__main__":
    main()
