"""Figures of docs/results.md that are drawn from runs.

    python -m benchmarks.figures knn docs/records/pretraining-track/five-epochs/{LeJEPA,DINO,MSN,MAE,SimMIM}/seed-*
    python -m benchmarks.figures attention supervised=runs/supervised_vit/seed-0 DINO=runs/dino_token/seed-0
    python -m benchmarks.figures matrix "ViT labels=runs/matrix/vit-by-labels/seed-1" "Swin labels=…" …

knn: k-NN over the minutes and over the operations of the training. Each folder is that of a run, and those of one
parent are seeds of one method, which its name labels. The time of a core depends on what else runs there, the number of
operations does not.

attention: what class tokens attend to in drawn shapes beside the masks, and Jaccard similarities. The networks have
seen no shapes; untrained ones of the same size, of three seeds, are measured too.

matrix: one image as the networks of a grid see it, a name being network and way of training. Above, the outputs of the
last block as colors: their first three principal components over 64 validation images. Below, the attention of the last
block, the mean over heads and queries. The untrained network is that of the first run of its row.
"""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from referee.report.drawing import COLORS
from torch import Tensor
from torch.nn import functional as F

from benchmarks.measuring import CPU, parser_of
from vitlab.analysis.attention import attention_overlap, class_token_masks, jaccard, num_prefix, query_map
from vitlab.analysis.canvas import new_grid, show_image, to_pixels
from vitlab.analysis.image_logging import some_images
from vitlab.analysis.measures import block_outputs
from vitlab.data import Shapes
from vitlab.experiment.experiment import Experiment
from vitlab.models import ImageModel, VisionTransformer
from vitlab.models.weights import load_weights

SHOWN = 6  # images
UNTRAINED = 3  # seeds


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


def draw_knn(folders: Sequence[Path]) -> Figure:
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


def encoder(seed: int, weights: Path | None = None) -> VisionTransformer:
    """Build the track's ViT with a class token."""
    torch.manual_seed(seed)
    backbone = VisionTransformer(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3)
    if weights is not None:
        load_weights(backbone, weights)
    return backbone.eval()


@torch.no_grad()
def best_heads(model: VisionTransformer, images: Tensor, masks: Tensor) -> Tensor:
    """Return the attention (N, H, W) of each image's best head, in pixels."""
    maps = query_map(model.attention_maps(images)[-1], 0).float()  # (N, h, H, W)
    best = jaccard(class_token_masks(model, images), masks).argmax(dim=1)
    return F.interpolate(maps, images.shape[2:], mode="nearest-exact")[torch.arange(len(images)), best]


def draw_attention(images: Tensor, masks: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """Draw a column for each image; below it its mask, and the attention of each network."""
    rows = {"image": images.movedim(1, -1), "mask": masks.float(), **maps}
    figure = Figure(figsize=(1.3 * len(images) + 1, 1.3 * len(rows)), layout="constrained")
    for line, (name, pictures) in zip(figure.subplots(len(rows), len(images)), rows.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture.numpy(), cmap="gray" if name == "mask" else "viridis")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    return figure


def attention(runs: Mapping[str, Path]) -> Figure:
    data = Shapes()
    data.prepare_data()
    data.setup("test")
    masks = data.masks("test")
    assert masks is not None
    views = [view for (view,), _ in data.batches("test", CPU)]
    networks = {f"untrained, seed {seed}": encoder(seed) for seed in range(UNTRAINED)}
    networks |= {name: encoder(0, run / "checkpoints/last.ckpt") for name, run in runs.items()}
    for name, model in networks.items():
        print(name, f"{float(attention_overlap(model, views, masks).best.mean()):.3f}")
    shown, inside = views[0][:SHOWN], masks[:SHOWN]
    drawn = {"untrained": networks["untrained, seed 0"], **{name: networks[name] for name in runs}}
    maps = {name: best_heads(model, shown, inside) for name, model in drawn.items()}
    low, high = shown.amin(dim=(1, 2, 3), keepdim=True), shown.amax(dim=(1, 2, 3), keepdim=True)
    return draw_attention((shown - low) / (high - low), inside, maps)


@torch.no_grad()
def seen(model: ImageModel, images: Tensor, shown: int) -> tuple[Tensor, Tensor]:
    """Return features (H, W, 3) in [0, 1] and attention (H, W) of one of the images, by token of the last block."""
    last = model.attention_maps(images[shown : shown + 1])[-1]
    first, (height, width) = num_prefix(last), last.size
    tokens = block_outputs(model, images)[-1][:, first:].float()  # (B, N, C)
    centered = tokens - tokens.mean(dim=(0, 1))
    colors = centered @ torch.linalg.svd(centered.flatten(0, 1), full_matrices=False).Vh[:3].T  # (B, N, 3)
    low, high = (colors.flatten(0, 1).quantile(q, dim=0) for q in (0.02, 0.98))
    queries = range(first, first + height * width)
    attention = torch.stack([query_map(last, query)[0].float().mean(dim=0) for query in queries]).mean(dim=0)
    return ((colors[shown] - low) / (high - low)).clamp(0, 1).unflatten(0, (height, width)), attention


def matrix(runs: Mapping[str, Path], shown: int) -> Figure:
    """Draw two rows for each network, its features and its attention, and a column for each way of training."""
    rows: dict[str, dict[str, Path]] = {}
    for name, run in runs.items():
        network, _, way = name.rpartition(" ")
        rows.setdefault(network, {})[way.replace("_", " ")] = run / "config.yaml"
    ways = ["untrained", *next(iter(rows.values()))]
    figure, panels = new_grid(2 * len(rows), 1 + len(ways), 1.15, 1.15)
    for row, (network, own) in enumerate(rows.items()):
        first = Experiment(next(iter(own.values())))
        images, _, _ = some_images(first.data, 64, CPU)
        models = {"untrained": first.model} | {way: Experiment.load(run).model for way, run in own.items()}
        for column, way in enumerate(ways, start=1):
            features, attention = seen(models[way].eval(), images, shown)
            panels[2 * row, column].imshow(features.numpy())
            panels[2 * row + 1, column].imshow(attention.numpy(), cmap="viridis")
            panels[0, column].set_title("\n".join(textwrap.wrap(way, 13)), fontsize=9)
        show_image(panels[2 * row, 0], to_pixels(images, first.data.mean, first.data.std)[shown])
        panels[2 * row, 0].set_ylabel(f"{network}\nfeatures")
        panels[2 * row + 1, 0].set_ylabel("attention")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("figures", __doc__)
    parser.add_argument("name", choices=("knn", "attention", "matrix"))
    parser.add_argument("runs", nargs="+", metavar="RUN", help="of attention and matrix: NAME=RUN")
    parser.add_argument(
        "--out", type=Path, default=Path("docs"), help="folder of knn_over_time.png, attention.png or matrix_cells.png"
    )
    parser.add_argument("--image", type=int, default=0, help="of matrix: which of 64 validation images [0]")
    options = parser.parse_args(arguments)
    if options.name == "knn":
        draw_knn([Path(run) for run in options.runs]).savefig(options.out / "knn_over_time.png", dpi=150)
    else:
        runs = {name: Path(run) for name, run in (word.split("=", 1) for word in options.runs)}
        if options.name == "attention":
            attention(runs).savefig(options.out / "attention.png", dpi=130)
        else:
            matrix(runs, options.image).savefig(options.out / "matrix_cells.png", dpi=130)


if __name__ == "__main__":
    main()
