"""Scaling laws on paper and in a run: what attention costs as images, windows, widths, depths and batches grow.

    Ω(MSA)   = 4hwC² + 2(hw)²C         every token attends to every token, as in ViT
    Ω(W-MSA) = 4hwC² + 2M²hwC          within windows, as in Swin

are equations 1 and 2 of Liu et al. 2021 (https://arxiv.org/abs/2103.14030), in multiplications with their additions:
h × w tokens of width C, windows of M × M. The MLP of a block adds 8hwC². Neither counts a softmax or a copy; what they
cost is what the measured time keeps over the formula.

Steps that are compared take `turns`, and a point is the median of its times with the quartiles.
"""

import csv
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from io import StringIO
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vitlab.atomic_files import write_text
from vitlab.evaluation.flops import dtype_of, flops_of
from vitlab.evaluation.interleaved_timing import Step, alternate, quartiles
from vitlab.models.hierarchy import WindowAttention
from vitlab.models.swin import DotProductAttention, PreNormBlock
from vitlab.models.vit import Attention, Block
from vitlab.studies.peers import TRAINER_PRECISION, Precision

Architecture = Literal["ViT", "Swin"]
Part = Literal["attention", "block"]
Factor = Literal["side", "window", "width", "depth", "batch"]

HEAD_WIDTH = 32  # Swin's, and here ViT's too, so that the two differ in nothing but who attends to whom
MLP_RATIO = 4


@dataclass(frozen=True)
class Shape:
    """What the cost depends on: `side` × `side` tokens in windows of `window` × `window`, `depth` layers."""

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
    precision: Precision
    multiply_adds: int
    flops: int
    seconds: float
    seconds_q1: float
    seconds_q3: float
    repetitions: int

    @property
    def value(self) -> int:
        """What the factor has become; of an image's side, the number of tokens."""
        return self.side**2 if self.factor == "side" else int(getattr(self, self.factor))


def msa(h: int, w: int, C: int) -> int:
    """Return Ω(MSA), equation 1."""
    return 4 * h * w * C**2 + 2 * (h * w) ** 2 * C


def window_msa(h: int, w: int, C: int, M: int) -> int:
    """Return Ω(W-MSA), equation 2."""
    return 4 * h * w * C**2 + 2 * M**2 * h * w * C


def mlp(h: int, w: int, C: int) -> int:
    """Return the multiply-adds of a block's two linear layers, from C to 4C and back."""
    return 2 * MLP_RATIO * h * w * C**2


def multiply_adds(architecture: Architecture, part: Part, shape: Shape) -> int:
    """Return the multiply-adds of a forward pass."""
    side, width = shape.side, shape.width
    layer = msa(side, side, width) if architecture == "ViT" else window_msa(side, side, width, shape.window)
    layer += mlp(side, side, width) if part == "block" else 0
    return shape.batch * shape.depth * layer


def build(architecture: Architecture, part: Part, shape: Shape) -> nn.Sequential:
    """Stack attention layers or blocks as the models do; every second block of a Swin shifts its windows."""
    make = _vit_layer if architecture == "ViT" else _swin_layer
    return nn.Sequential(*(make(part, shape, shifted=i % 2 == 1) for i in range(shape.depth))).eval()


def _vit_layer(part: Part, shape: Shape, shifted: bool) -> nn.Module:
    attn = Attention(shape.width, shape.width // HEAD_WIDTH, qkv_bias=True, attn_drop=0.0, proj_drop=0.0)
    return attn if part == "attention" else Block(shape.width, attn, MLP_RATIO, 0.0, 0.0, init_values=None)


def _swin_layer(part: Part, shape: Shape, shifted: bool) -> nn.Module:
    window, size = (shape.window, shape.window), (shape.side, shape.side)
    attn = DotProductAttention(shape.width, shape.width // HEAD_WIDTH, window, True, 0.0, 0.0)
    return (
        Unmasked(attn)
        if part == "attention"
        else PreNormBlock(shape.width, size, shifted, attn, float(MLP_RATIO), 0.0, 0.0)
    )


class Unmasked(nn.Module):
    """Windowed attention without a shift, and so without a mask: the layer of the formula."""

    def __init__(self, attn: WindowAttention) -> None:
        super().__init__()
        self.attn = attn

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x, None)


def tokens(architecture: Architecture, shape: Shape, device: torch.device) -> Tensor:
    """Return noise as the architecture takes it: ViT a sequence (B, N, C), Swin a map (B, H, W, C)."""
    grid = (shape.side**2,) if architecture == "ViT" else (shape.side, shape.side)
    return torch.randn(shape.batch, *grid, shape.width, device=device)


def shapes(factor: Factor, base: Shape) -> Iterator[Shape]:
    """Yield the base with one factor at each of its values."""
    return (replace(base, **{factor: value}) for value in SWEEPS[factor])


def measure(
    factors: Iterable[Factor], base: Shape, precision: Precision, repetitions: int, device: torch.device
) -> list[Point]:
    """Measure attention and blocks of both architectures along each factor, all sizes of a factor in turn.

    Raises:
        ValueError: no batch, or too few repetitions for quartiles.
    """
    if base.batch < 1 or repetitions < 2:
        raise ValueError(f"--batch {base.batch} --repetitions {repetitions}: give 1 image or more, and 2 repetitions.")
    return [point for factor in factors for point in _along(factor, base, precision, repetitions, device)]


def _along(
    factor: Factor, base: Shape, precision: Precision, repetitions: int, device: torch.device
) -> Iterator[Point]:
    cases: dict[str, tuple[Architecture, Part, Shape]] = {
        f"{number:02d} {architecture} {part}": (architecture, part, shape)
        for number, shape in enumerate(shapes(factor, base))
        for architecture in ("ViT", "Swin")
        for part in ("attention", "block")
    }
    steps = {name: _step(*case, precision, device) for name, case in cases.items()}
    flops = {name: flops_of(step) for name, step in steps.items()}
    times = alternate(steps, repetitions, device)
    for name, (architecture, part, shape) in cases.items():
        q1, middle, q3 = quartiles(times[name])
        yield Point(
            factor,
            architecture,
            part,
            **asdict(shape),
            precision=precision,
            multiply_adds=multiply_adds(architecture, part, shape),
            flops=flops[name],
            seconds=middle,
            seconds_q1=q1,
            seconds_q3=q3,
            repetitions=repetitions,
        )


def _step(architecture: Architecture, part: Part, shape: Shape, precision: Precision, device: torch.device) -> Step:
    # In its precision throughout, not by autocast, which would measure its own copies of the weights.
    dtype = dtype_of(TRAINER_PRECISION[precision])
    layers = build(architecture, part, shape).to(device, dtype)
    x = tokens(architecture, shape, device).to(dtype)

    def step() -> None:
        with torch.inference_mode():
            layers(x)

    return step


def seconds_per_multiply_add(curve: Sequence[Point]) -> float:
    """Return the one constant by which the formula comes nearest to a curve's points, on a logarithmic scale."""
    return math.exp(statistics.median(math.log(point.seconds / point.multiply_adds) for point in curve))


def curve_of(points: Sequence[Point], factor: Factor, architecture: Architecture, part: Part) -> list[Point]:
    """Return one curve's points, in the order of the factor's values."""
    found = [p for p in points if (p.factor, p.architecture, p.part) == (factor, architecture, part)]
    return sorted(found, key=lambda point: point.value)


def write_table(points: Sequence[Point], folder: Path) -> None:
    """Write scaling.csv."""
    out = StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    write_text(folder / "scaling.csv", out.getvalue())
