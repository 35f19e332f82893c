"""What a model that fills in hidden pixels makes of images (as in He et al. 2022, Fig. 2).

B images of H × W pixels in C channels, values from 0 to 1; a mask is True where a pixel was hidden.
"""

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from vitlab.analysis.canvas import MUTED, new_figure, show_image, styled

GRAY = 0.5  # of what is hidden


def panels(
    images: Float[np.ndarray, "B H W C"], pred: Float[np.ndarray, "B H W C"], mask: Bool[np.ndarray, "B H W"]
) -> dict[str, Float[np.ndarray, "B H W C"]]:
    """Return the image, what the model saw of it, all it predicts, and its prediction only where it saw nothing."""
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
    """Draw an image a column, its four panels below each other."""
    rows = panels(images, pred, mask)
    _, height, width, _ = images.shape
    side = 1.25  # inches
    figure = new_figure(0.8 + side * len(images), 0.4 + side * len(rows) * height / width)
    axes = figure.subplots(len(rows), len(images), squeeze=False)
    for row, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(row, pictures, strict=True):
            show_image(ax, picture)
        row[0].set_ylabel(name)
    figure.suptitle(f"{title}, {mask.mean():.0%} hidden", color=MUTED, fontsize=10)
    return figure
