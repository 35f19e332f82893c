"""Shifted windows drawn: which tokens of a map attend to each other (Liu et al. 2021, Figs. 2 and 4).

Letters: nW windows of N tokens, a map of H × W tokens.
"""

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from referee.report.drawing import COLORS, INK
from torch import Tensor

from vitlab.analysis.canvas import new_figure, new_grid, show_image, styled

PALETTE = matplotlib.colormaps["Set3"]


def regions(mask: Float[Tensor, "nW N N"]) -> Int[Tensor, "nW N"]:
    """Number each token by the first token of its window that it may see: equal where two may see each other."""
    num_windows, N, _ = mask.shape
    first = (mask == 0).int().argmax(dim=-1)
    return first + N * first.new_tensor(range(num_windows))[:, None]


@styled
def draw_tokens(tokens: dict[str, Int[np.ndarray, "H W"]], groups: dict[str, Int[np.ndarray, "H W"]]) -> Figure:
    """Draw maps of numbered tokens side by side, with a color and an outline for each group."""
    figure, panels = new_grid(1, len(tokens), 2.7, 2.9)
    for axes, (name, numbers) in zip(panels[0], tokens.items(), strict=True):
        _, which = np.unique(groups[name], return_inverse=True)
        axes.imshow(PALETTE(which.reshape(numbers.shape) % PALETTE.N))
        for (row, column), number in np.ndenumerate(numbers):
            axes.text(column, row, str(number), ha="center", va="center", fontsize=8)
        _outline(axes, groups[name], 1, INK)
        axes.set_title(name)
    return figure


@styled
def draw_pictures(
    pictures: dict[str, Float[np.ndarray, "Hpx Wpx C"]], groups: dict[str, Int[np.ndarray, "H W"]]
) -> Figure:
    """Draw pictures side by side with an outline around each group of patches."""
    figure, panels = new_grid(1, len(pictures), 2.2, 2.4)
    for axes, (name, picture) in zip(panels[0], pictures.items(), strict=True):
        show_image(axes, picture)
        _outline(axes, groups[name], picture.shape[0] // groups[name].shape[0], COLORS[4])
        axes.set_title(name)
    return figure


def _outline(axes: Axes, groups: Int[np.ndarray, "H W"], side: int, color: str) -> None:
    """Draw lines between neighbors of different groups; a token is `side` wide."""
    lines = [((c, r + 1), (c + 1, r + 1)) for r, c in np.argwhere(np.diff(groups, axis=0))]
    lines += [((c + 1, r), (c + 1, r + 1)) for r, c in np.argwhere(np.diff(groups, axis=1))]
    axes.add_collection(LineCollection([np.asarray(line) * side - 0.5 for line in lines], colors=color, linewidths=2))


@styled
def draw_masks(mask: Float[np.ndarray, "nW N N"]) -> Figure:
    """Draw for each window which token (row) may see which (column): white may, dark may not."""
    figure = new_figure(2.1 * len(mask), 2.4)
    for number, axes in enumerate(figure.subplots(1, len(mask), squeeze=False)[0]):
        axes.imshow(mask[number], cmap="gray", vmin=-140, vmax=0)
        axes.set(title=f"window {number + 1}", xticks=[], yticks=[], xlabel="key")
    figure.axes[0].set_ylabel("query")
    return figure
