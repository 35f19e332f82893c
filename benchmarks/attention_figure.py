"""What the class token of ViTs attends to in drawn shapes, beside their masks: a figure, and Jaccard similarities.

    python -m benchmarks.attention_figure supervised=runs/supervised_vit/seed-0 DINO=runs/dino_token/seed-0 --out docs

The networks have seen no shapes. Untrained ones of the same size, of three seeds, are measured beside them.
docs/results.md says how both were trained.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from vitlab.analysis.attention import attention_overlap, class_token_masks, jaccard, query_map
from vitlab.data import Shapes
from vitlab.models import VisionTransformer
from vitlab.models.weights import load_weights

SHOWN = 6  # images
UNTRAINED = 3  # seeds


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


def draw(images: Tensor, masks: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """Draw a column for each image; below it its mask, and the attention of each network."""
    rows = {"image": images.movedim(1, -1), "mask": masks.float(), **maps}
    figure = Figure(figsize=(1.3 * len(images) + 1, 1.3 * len(rows)), layout="constrained")
    for line, (name, pictures) in zip(figure.subplots(len(rows), len(images)), rows.items(), strict=True):
        for axes, picture in zip(line, pictures, strict=True):
            axes.imshow(picture.numpy(), cmap="gray" if name == "mask" else "viridis")
            axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(name)
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each network, and draw attention.png."""
    parser = argparse.ArgumentParser("python -m benchmarks.attention_figure", description=__doc__.partition(":")[0])
    parser.add_argument("networks", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of attention.png [docs]")
    options = parser.parse_args(arguments)
    data = Shapes()
    data.prepare_data()
    data.setup("test")
    masks = data.masks("test")
    assert masks is not None
    device = torch.device("cpu")
    views = [view for (view,), _ in data.batches("test", device)]

    def overlap(model: VisionTransformer) -> float:
        return float(attention_overlap(model, views, masks).best.mean())

    untrained = [encoder(seed) for seed in range(UNTRAINED)]
    pairs = (word.split("=", 1) for word in options.networks)
    networks = {name: encoder(0, Path(run) / "checkpoints/last.ckpt") for name, run in pairs}
    print("untrained", ", ".join(f"{overlap(model):.3f}" for model in untrained))
    for name, model in networks.items():
        print(name, f"{overlap(model):.3f}")
    shown, inside = views[0][:SHOWN], masks[:SHOWN]
    maps = {name: best_heads(model, shown, inside) for name, model in {"untrained": untrained[0], **networks}.items()}
    low, high = shown.amin(dim=(1, 2, 3), keepdim=True), shown.amax(dim=(1, 2, 3), keepdim=True)
    draw((shown - low) / (high - low), inside, maps).savefig(options.out / "attention.png", dpi=130)


if __name__ == "__main__":
    main()
