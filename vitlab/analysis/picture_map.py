"""A map of pictures: the plane of their features' first two principal components, with a color for each folder."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from referee.report.drawing import COLORS, MUTED

from vitlab.analysis.canvas import new_figure, styled


@styled
def draw_map(embedding: Float[np.ndarray, "N C"], files: Sequence[str]) -> Figure:
    """Draw a point for each picture; those of all but the largest folders are gray."""
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
