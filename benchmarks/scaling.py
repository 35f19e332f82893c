"""What attention costs as images, windows, widths, depths and batches grow: measured, and by formula.

    python -m benchmarks.scaling

    Ω(MSA)   = 4hwC² + 2(hw)²C         every token attends to every token, as in ViT
    Ω(W-MSA) = 4hwC² + 2M²hwC          within windows, as in Swin

are equations 1 and 2 of Liu et al. 2021 (https://arxiv.org/abs/2103.14030), in multiplications with their additions:
h × w tokens of width C, windows of M × M. The MLP of a block adds 8hwC². Neither counts softmax or copies; their cost
is what the measured time exceeds the formula by.

All sizes along a factor alternate; a point of the figure is the median of its times with the quartiles, and a line the
formula, scaled by one constant.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Literal

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure
from referee.report.drawing import COLORS, STYLE
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.against_timm import TRAINER_PRECISION
from benchmarks.measuring import Step, alternate, machine, parser_of, quartiles
from vitlab.atomic_files import write_text
from vitlab.evaluation.cost import device_for, dtype_of, flops_of
from vitlab.models import SwinTransformer, VisionTransformer

Architecture = Literal["ViT", "Swin"]
Part = Literal["attention", "block"]
Factor = Literal["side", "window", "width", "depth", "batch"]
Row = dict[str, Any]

HEAD_WIDTH = 32  # Swin's, here ViT's too, so that the two differ only in who attends to whom
MLP_RATIO = 4


@dataclass(frozen=True)
class Shape:
    """`side` × `side` tokens of `width` numbers in windows of `window` × `window`, `depth` layers, `batch` images."""

    side: int = 28
    window: int = 7
    width: int = 96
    depth: int = 1
    batch: int = 1


SWEEPS: dict[Factor, Sequence[int]] = {
    "side": (7, 14, 21, 28, 42, 56, 84),
    "window": (2, 4, 7, 14, 28),
    "width": (32, 64, 128, 256, 512),
    "depth": (1, 2, 4, 8, 16),
    "batch": (1, 2, 4, 8, 16),
}


def msa(h: int, w: int, C: int) -> int:
    """Return Ω(MSA), equation 1."""
    return 4 * h * w * C**2 + 2 * (h * w) ** 2 * C


def window_msa(h: int, w: int, C: int, M: int) -> int:
    """Return Ω(W-MSA), equation 2."""
    return 4 * h * w * C**2 + 2 * M**2 * h * w * C


def multiply_adds(architecture: Architecture, part: Part, shape: Shape) -> int:
    side, width = shape.side, shape.width
    layer = msa(side, side, width) if architecture == "ViT" else window_msa(side, side, width, shape.window)
    if part == "block":  # two linear layers, from C to 4C and back
        layer += 2 * MLP_RATIO * side * side * width**2
    return shape.batch * shape.depth * layer


def build(architecture: Architecture, part: Part, shape: Shape) -> nn.Sequential:
    """Return the blocks of a model, or their attention layers; every second block of a Swin shifts its windows."""
    heads = shape.width // HEAD_WIDTH
    if architecture == "ViT":
        vit = VisionTransformer(shape.side, 1, 1, 1, embed_dim=shape.width, depth=shape.depth, num_heads=heads)
        return nn.Sequential(*(block if part == "block" else block.attn for block in vit.blocks)).eval()
    sizes = {"embed_dim": shape.width, "depths": (shape.depth,), "num_heads": (heads,), "window_size": shape.window}
    swin = SwinTransformer(shape.side, 1, in_chans=1, num_classes=1, **sizes)
    blocks = [block for stage in swin.layers for block in stage.blocks]
    return nn.Sequential(*(block if part == "block" else Unmasked(block.attn) for block in blocks)).eval()


class Unmasked(nn.Module):
    """Windowed attention without a shift, and so without a mask: the layer of the formula."""

    def __init__(self, attn: nn.Module) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, None)


def tokens(architecture: Architecture, shape: Shape, device: torch.device) -> Tensor:
    """Return noise as the architecture takes it: ViT a sequence (B, N, C), Swin a map (B, H, W, C)."""
    grid = (shape.side**2,) if architecture == "ViT" else (shape.side, shape.side)
    return torch.randn(shape.batch, *grid, shape.width, device=device)


def measure(factor: Factor, base: Shape, precision: str, repetitions: int, device: torch.device) -> Iterator[Row]:
    """Yield a row for each stack of attention layers or blocks: operations by the formula and by torch, and time."""
    cases: dict[str, tuple[Architecture, Part, Shape]] = {
        f"{number:02d} {architecture} {part}": (architecture, part, replace(base, **{factor: value}))
        for number, value in enumerate(SWEEPS[factor])
        for architecture in ("ViT", "Swin")
        for part in ("attention", "block")
    }
    steps: dict[str, Step] = {}
    dtype = dtype_of(TRAINER_PRECISION[precision])  # throughout: autocast would also be measured copying the weights
    for name, (architecture, part, shape) in cases.items():
        layers, x = build(architecture, part, shape).to(device, dtype), tokens(architecture, shape, device).to(dtype)
        steps[name] = torch.inference_mode()(partial(layers, x))
    times = alternate(steps, repetitions, device)
    for name, (architecture, part, shape) in cases.items():
        q1, middle, q3 = quartiles(times[name])
        row = {"factor": factor, "architecture": architecture, "part": part, **asdict(shape)}
        row |= {"multiply_adds": multiply_adds(architecture, part, shape), "flops": flops_of(steps[name])}
        yield row | {"seconds": middle, "seconds_q1": q1, "seconds_q3": q3}


LABELS: dict[Factor, str] = {
    "side": "tokens of an image, h × w",
    "window": "side of a window, M",
    "width": "width, C",
    "depth": "layers",
    "batch": "images",
}


def draw(table: pd.DataFrame, base: Shape, measured_on: str) -> Figure:
    """Draw medians with quartiles, and the formulas as lines, each scaled by the median of what it leaves."""
    figure = Figure(figsize=(20, 4.5), layout="constrained")
    panels, curves = figure.subplots(1, len(LABELS)), dict([*table.groupby(["factor", "architecture", "part"])])
    for axes, (factor, label) in zip(panels, LABELS.items(), strict=True):
        for color, (architecture, part) in zip(COLORS, product(("ViT", "Swin"), ("block", "attention")), strict=False):
            curve = curves[factor, architecture, part]
            values, seconds = curve[factor] ** (2 if factor == "side" else 1), curve["seconds"]
            constant = (seconds / curve["multiply_adds"]).median()
            axes.plot(values, constant * curve["multiply_adds"], color=color)
            errors = [seconds - curve["seconds_q1"], curve["seconds_q3"] - seconds]
            axes.errorbar(values, seconds, yerr=errors, fmt="o", color=color, label=f"{architecture}, {part}")
        axes.set(xscale="log", yscale="log", xlabel=label)
    panels[0].set_ylabel("seconds of a forward pass")
    panels[-1].legend(frameon=False)
    figure.suptitle(f"{measured_on} Unless varied: {base}")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("scaling", __doc__, "scaling.csv and .png")
    parser.add_argument("--precision", choices=TRAINER_PRECISION, default="float32")
    parser.add_argument("--batch", type=int, help="images, except where the batch grows [1; 64 on a GPU]")
    parser.add_argument("--repetitions", type=int, default=11, help="timed forward passes of each [11]")
    options = parser.parse_args(arguments)
    device = device_for("auto")
    base = Shape(batch=options.batch or (64 if device.type == "cuda" else 1))  # one image leaves a GPU idle
    rows: list[Row] = []
    for factor in tqdm(SWEEPS):
        rows += measure(factor, base, options.precision, options.repetitions, device)
        write_text(options.out / "scaling.csv", pd.DataFrame(rows).to_csv(index=False))
    with matplotlib.rc_context(STYLE):
        figure = draw(pd.DataFrame(rows), base, f"{machine(device)} {options.precision}")
        figure.savefig(options.out / "scaling.png", dpi=144, facecolor="white")
    print(options.out / "scaling.png")


if __name__ == "__main__":
    main()
