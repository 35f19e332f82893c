"""What all figures share: their style, axes for images, and writing to a file."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from referee.report.drawing import INK, MUTED
from torch import Tensor

from vitlab.atomic_files import written_whole

RIGHT, WRONG = "#00634a", "#a83c00"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
}

styled = matplotlib.rc_context(STYLE)
"""Decorates functions that draw: matplotlib reads its settings when it creates the parts of a figure."""


def new_figure(width: float, height: float) -> Figure:
    """Return a figure of a size in inches, unknown to pyplot."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def new_grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """Return a figure and its axes (rows, columns) without ticks, each of a size in inches."""
    figure = new_figure(width * columns, height * rows)
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        no_ticks(axes)
    return figure, panels


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure, atomically."""
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=120)


def to_pixels(
    images: Float[Tensor, "B C H W"], mean: tuple[float, ...], std: tuple[float, ...]
) -> Float[np.ndarray, "B H W C"]:
    """Undo the normalization; predictions are clamped to [0, 1]."""
    scale, shift = (torch.tensor(x, device=images.device).view(-1, 1, 1) for x in (std, mean))
    return (images.float() * scale + shift).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()


def show_image(axes: Axes, image: Float[np.ndarray, "H W C"]) -> None:
    """Show an image without ticks: three channels in color, any other number by their mean, in gray."""
    axes.imshow(image if image.shape[2] == 3 else image.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    no_ticks(axes)


def no_ticks(axes: Axes) -> None:
    """Remove ticks and frame; labels stay."""
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
