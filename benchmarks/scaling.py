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

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Literal

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


@dataclass(frozen=True)
class Point:
    """A stack of attention layers or blocks: `multiply_adds` by the formula, `flops` by torch's counter, and time."""

    factor: Factor
    architecture: Architecture
    part: Part
    side: int
    window: int
    width: int
    depth: int
    batch: int
    multiply_adds: int
    flops: int
    seconds: float
    seconds_q1: float
    seconds_q3: float

    @property
    def value(self) -> int:
        """The value of the factor; for an image's side, the number of tokens."""
        return self.side**2 if self.factor == "side" else int(getattr(self, self.factor))


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


def measure(factor: Factor, base: Shape, precision: str, repetitions: int, device: torch.device) -> Iterator[Point]:
    cases: dict[str, tuple[Architecture, Part, Shape]] = {
        f"{number:02d} {architecture} {part}": (architecture, part, replace(base, **{factor: value}))
        for number, value in enumerate(SWEEPS[factor])
        for architecture in ("ViT", "Swin")
        for part in ("attention", "block")
    }
    steps = {name: _step(*case, precision, device) for name, case in cases.items()}
    times = alternate(steps, repetitions, device)
    for name, (architecture, part, shape) in cases.items():
        q1, middle, q3 = quartiles(times[name])
        counts = multiply_adds(architecture, part, shape), flops_of(steps[name])
        yield Point(factor, architecture, part, *astuple(shape), *counts, middle, q1, q3)


def _step(architecture: Architecture, part: Part, shape: Shape, precision: str, device: torch.device) -> Step:
    # In its precision throughout: autocast would also be measured copying the weights.
    dtype = dtype_of(TRAINER_PRECISION[precision])
    layers = build(architecture, part, shape).to(device, dtype)
    x = tokens(architecture, shape, device).to(dtype)
    return torch.inference_mode()(lambda: layers(x))


def seconds_per_multiply_add(curve: Sequence[Point]) -> float:
    """Return the constant that fits the formula to a curve, by the median on a logarithmic scale."""
    return math.exp(statistics.median(math.log(point.seconds / point.multiply_adds) for point in curve))


def curve_of(points: Sequence[Point], factor: Factor, architecture: Architecture, part: Part) -> list[Point]:
    curve = [p for p in points if (p.factor, p.architecture, p.part) == (factor, architecture, part)]
    return sorted(curve, key=lambda point: point.value)


LABELS: dict[Factor, str] = {
    "side": "tokens of an image, h × w",
    "window": "side of a window, M",
    "width": "width, C",
    "depth": "layers",
    "batch": "images",
}


def draw(points: Sequence[Point], base: Shape, measured_on: str) -> Figure:
    """Draw medians with quartiles, and the formulas as lines, each scaled by one constant."""
    figure = Figure(figsize=(20, 4.5), layout="constrained")
    panels = figure.subplots(1, len(LABELS))
    for axes, (factor, label) in zip(panels, LABELS.items(), strict=True):
        for color, (architecture, part) in zip(COLORS, product(("ViT", "Swin"), ("block", "attention")), strict=False):
            curve = curve_of(points, factor, architecture, part)
            values, seconds = [p.value for p in curve], [p.seconds for p in curve]
            constant = seconds_per_multiply_add(curve)
            axes.plot(values, [constant * p.multiply_adds for p in curve], color=color)
            errors = [[p.seconds - p.seconds_q1 for p in curve], [p.seconds_q3 - p.seconds for p in curve]]
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
    points: list[Point] = []
    for factor in tqdm(SWEEPS):
        points += measure(factor, base, options.precision, options.repetitions, device)
        write_text(options.out / "scaling.csv", pd.DataFrame(points).to_csv(index=False))
    with matplotlib.rc_context(STYLE):
        figure = draw(points, base, f"{machine(device)} {options.precision}")
        figure.savefig(options.out / "scaling.png", dpi=144, facecolor="white")
    print(options.out / "scaling.png")


if __name__ == "__main__":
    main()
