"""Figures of attention, positions, filters, block outputs, features and reconstructions.

B images of H x W pixels in C channels, values from 0 to 1.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator
from referee.report.drawing import COLORS, MUTED

from vitlab.analysis.canvas import RIGHT, WRONG, new_figure, new_grid, no_ticks, show_image, styled

HEAT = "inferno"
LARGEST_MOSAIC = 14  # maps per side: more are too small to see
MOST_HEADS = 12  # per row
GRAY = 0.5  # of hidden pixels


@styled
def draw_positions(similarity: Float[np.ndarray, "H W H2 W2"]) -> Figure:
    """Draw one map per position, at its place: the similarity of its embedding to those of all positions."""
    step = -(-max(similarity.shape[:2]) // LARGEST_MOSAIC)
    similarity = similarity[step // 2 :: step, step // 2 :: step]
    rows, columns, height, width = similarity.shape
    mosaic = np.full((rows, height + 1, columns, width + 1), np.nan)
    mosaic[:, :height, :, :width] = similarity.transpose(0, 2, 1, 3)
    mosaic = mosaic.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]
    figure = new_figure(6.6, 5.6)
    axes = figure.subplots()
    shown = axes.imshow(mosaic, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xticks((width + 1) * np.arange(columns) + (width - 1) / 2, 1 + step // 2 + step * np.arange(columns))
    axes.set_yticks((height + 1) * np.arange(rows) + (height - 1) / 2, 1 + step // 2 + step * np.arange(rows))
    axes.set(xlabel="column of the patch", ylabel="row of the patch")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(shown, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


@styled
def draw_filters(components: Float[np.ndarray, "n C p p"]) -> Figure:
    """Draw filters side by side, each stretched to the full range from black to white."""
    low, high = (extreme(components, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    pictures = ((components - low) / np.maximum(high - low, 1e-12)).transpose(0, 2, 3, 1)
    columns = min(7, len(pictures))
    figure, panels = new_grid(-(-len(pictures) // columns), columns, 0.95, 0.95)
    for axes, picture in zip(panels.flat, pictures, strict=False):
        show_image(axes, picture)
    return figure


@styled
def draw_distances(distances: dict[str, list[Float[np.ndarray, "h"]]]) -> Figure:
    """Draw the attention distance of each head, and the mean over heads, by model and block."""
    figure = new_figure(1 + 3.6 * len(distances), 3.6)
    panels = figure.subplots(1, len(distances), squeeze=False, sharey=True)[0]
    for index, (axes, (name, blocks)) in enumerate(zip(panels, distances.items(), strict=True)):
        color = COLORS[index % len(COLORS)]
        for block, heads in enumerate(blocks, start=1):
            axes.plot([block] * len(heads), heads, "o", color=color, markersize=5, alpha=0.6, markeredgewidth=0)
        axes.plot(range(1, len(blocks) + 1), [heads.mean() for heads in blocks], color=color, linewidth=1.5)
        axes.set(title=name, xlabel="block", xlim=(0.5, len(blocks) + 0.5))
        _plain(axes)
    panels[0].set_ylabel("attention distance, px")
    panels[0].set_ylim(0, 1.06 * max(heads.max() for blocks in distances.values() for heads in blocks))
    return figure


@styled
def draw_amplitudes(amplitudes: dict[str, list[float]]) -> Figure:
    """Draw the variance of each block's output, on a logarithmic scale."""
    figure = new_figure(6.5, 3.6)
    axes = figure.subplots()
    for index, (name, values) in enumerate(amplitudes.items()):
        axes.plot(range(1, len(values) + 1), values, "o-", color=COLORS[index % len(COLORS)], label=name)
    axes.set(xlabel="block", ylabel="variance of a channel", yscale="log")
    for which in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        which(LogFormatter(minor_thresholds=(2, 0.5)))
    _plain(axes)
    figure.legend(loc="outside upper left")
    return figure


@styled
def draw_map(embedding: Float[np.ndarray, "N C"], files: Sequence[str]) -> Figure:
    """Draw pictures in the plane of their features' first two principal components, a color for each large folder."""
    from sklearn.decomposition import PCA

    pca = PCA(n_components=2, svd_solver="full")
    places = pca.fit_transform(embedding)
    folders = np.array([file.rpartition("/")[0] for file in files])
    counts = Counter(folders.tolist()).most_common()
    figure = new_figure(8, 8)
    axes = figure.subplots()
    for i, (folder, count) in enumerate(counts):
        color = COLORS[i] if i < len(COLORS) else MUTED
        label = f"{folder or 'not in a folder'} ({count})" if i < len(COLORS) else None
        x, y = places[folders == folder].T
        axes.scatter(x, y, s=16, color=color, alpha=0.7, linewidths=0, label=label)
    shares = [f"principal component {i}, {share:.0%}" for i, share in enumerate(pca.explained_variance_ratio_, start=1)]
    axes.set(xlabel=f"{shares[0]} of the variance", ylabel=f"{shares[1]} of the variance", aspect="equal")
    if len(counts) > 1:
        figure.legend(loc="outside upper left", ncols=3)
    return figure


def _plain(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def overlay(axes: Axes, image: Float[np.ndarray, "H W C"], heat: Float[np.ndarray, "h w"]) -> None:
    """Draw a map over the gray image: black where it is 0, brightest where it is largest."""
    height, width = image.shape[:2]
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=1)
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(heat, cmap=HEAT, vmin=0, extent=extent, alpha=0.72, interpolation="nearest")
    no_ticks(axes)


Caption = tuple[str, bool | None]
"""A text, and whether the model is right, None where this is unknown."""


@styled
def draw_images(images: list[Float[np.ndarray, "H W C"]], captions: list[Caption], columns: int = 8) -> Figure:
    """Draw images with values in [0, 1] row by row, each above its caption."""
    columns = min(columns, len(images))
    figure, panels = new_grid(-(-len(images) // columns), columns, 1.3, 1.75)
    for axes, image, caption in zip(panels.flat, images, captions, strict=False):
        show_image(axes, image)
        _write_caption(axes, caption)
    return figure


def _write_caption(axes: Axes, caption: Caption) -> None:
    text, right = caption
    axes.set_xlabel(text, color={None: MUTED, True: RIGHT, False: WRONG}[right])


@styled
def draw_maps(
    images: dict[str, Float[np.ndarray, "B H W C"]],
    maps: dict[str, Float[np.ndarray, "B h w"]],
    captions: dict[str, list[Caption]],
    names: list[str],
) -> Figure:
    """Draw one row per image: the image, then for each model its map over the image that it sees, with captions."""
    figure, panels = new_grid(len(names), len(maps) + 1, 1.75, 1.9)
    for i, (row, name) in enumerate(zip(panels, names, strict=True)):
        show_image(row[0], next(iter(images.values()))[i])
        row[0].set_xlabel(_short(name), color=MUTED)
        for axes, model in zip(row[1:], maps, strict=True):
            overlay(axes, images[model][i], maps[model][i])
            if captions[model]:
                _write_caption(axes, captions[model][i])
    for axes, title in zip(panels[0], ["image", *maps], strict=True):
        axes.set_title(title, fontsize=min(10, 170 / len(title)))  # names of runs are long
    return figure


def _short(name: str) -> str:
    """Return the end of a name, which distinguishes files."""
    return name if len(name) <= 18 else f"…{name[-17:]}"


@styled
def draw_heads(
    images: Float[np.ndarray, "R H W C"],
    heads: list[Float[np.ndarray, "h _ _"]],
    labels: list[str],
    query: tuple[int, int] | None = None,
) -> Figure:
    """Draw one row per image or block with the maps of its first heads over an image, and a cross at the query."""
    columns = min(MOST_HEADS, max(map(len, heads)))
    figure, panels = new_grid(len(heads), columns, 1.2, 1.2)
    for row, image, maps, label in zip(panels, images, heads, labels, strict=True):
        row[0].set_ylabel(_short(label))
        for axes, heat in zip(row, maps, strict=False):
            overlay(axes, image, heat)
            if query is not None:
                axes.plot(query[1], query[0], "+", color=COLORS[5], markersize=8, markeredgewidth=2)
    for number, axes in enumerate(panels[0], start=1):
        axes.set_title(f"head {number}")
    return figure


def draw_class_token(
    images: Float[np.ndarray, "B H W C"], heads: Float[np.ndarray, "B h _ _"], names: list[str]
) -> Figure:
    """Draw one row per image: the image, then the maps of its first heads with the weight of their brightest patch."""
    maps = {f"head {n}": head for n, head in enumerate(heads.swapaxes(0, 1)[:MOST_HEADS], start=1)}
    captions: dict[str, list[Caption]] = {
        name: [(f"{heat.max():.0%}", None) for heat in head] for name, head in maps.items()
    }
    return draw_maps(dict.fromkeys(maps, images), maps, captions, names)


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
