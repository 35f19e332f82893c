"""Reconstructions by masked image modeling (as in He et al. 2022, Fig. 2).

B images of H × W pixels in C channels, values from 0 to 1; a mask is True where a pixel was hidden.
"""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from referee.report.drawing import MUTED

from vitlab.analysis.canvas import new_grid, show_image, styled

GRAY = 0.5  # of hidden pixels


def panels(
    images: Float[np.ndarray, "B H W C"], pred: Float[np.ndarray, "B H W C"], mask: Bool[np.ndarray, "B H W"]
) -> dict[str, Float[np.ndarray, "B H W C"]]:
    """Return the image, its visible part, the whole prediction, and the image, its hidden part predicted."""
    hidden = mask[..., None]
    return {
        "image": images,
        "visible": np.where(hidden, GRAY, images),
        "prediction": pred,
        "filled in": np.where(hidden, pred, images),
    }


@styled
def draw_reconstructions(
    images: Float[np.ndarray, "B H W C"],
    pred: Float[np.ndarray, "B H W C"],
    mask: Bool[np.ndarray, "B H W"],
    title: str,
) -> Figure:
    """Draw one column of four panels per image."""
    rows = panels(images, pred, mask)
    _, height, width, _ = images.shape
    side = 1.35  # inches
    figure, grid = new_grid(len(rows), len(images), side, side * height / width)
    for row, (name, pictures) in zip(grid, rows.items(), strict=True):
        row[0].set_ylabel(name)
        for axes, picture in zip(row, pictures, strict=True):
            show_image(axes, picture)
    figure.suptitle(f"{title}, {mask.mean():.0%} hidden", color=MUTED, fontsize=10)
    return figure
