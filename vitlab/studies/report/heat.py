"""Which pixels speak for each variant's answer, on the images that come first in the gallery."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from referee.report.drawing import MUTED, PX, Chart, Layout

from vitlab.studies.baselines import Images
from vitlab.studies.report.gallery import interesting, models_shown
from vitlab.studies.results import StudyResults

ROWS = 4  # images
CAPTION = (
    "Integrated gradients (Sundararajan et al. 2017) of the shown seed's answer, by cell of an 8 x 8 grid. Black is "
    "zero or evidence against it, and each map has its own scale. Below are the answer, its probability, and what is "
    "left of that when the tenth of the cells that speaks most for it is blurred: little, if the map is right."
)


class Heat(NamedTuple):
    """The predictions and explanations of one variant's model for some images."""

    maps: np.ndarray  # (ROWS, n, n), 0 or more
    captions: list[str]


def heat_chart(results: StudyResults, images: Images) -> Chart | None:
    """Return the chart of the shown models; None where no model can be loaded."""
    indices = interesting(results)[:ROWS]
    heats = {}
    for variant, run in models_shown(results).items():
        try:
            heats[variant] = _heat_of(run.run.directory, indices)
        except (FileNotFoundError, ValueError):  # its checkpoints were removed, or it answers with no class
            continue
    if not heats:
        return None
    pixels = [image.mean(axis=2) / 255 for image in images.raw_images("test", indices.tolist())]
    names = [results.class_names[results.labels[index]] for index in indices]

    def draw(_: StudyResults, layout: Layout) -> Figure:
        columns = min(len(heats), 4 if layout.columns > 1 else 2) + 1
        shown = dict(list(heats.items())[: columns - 1])
        side = min(layout.width / columns, 170) * PX
        figure = Figure(figsize=(columns * side, len(indices) * (side + 34 * PX)), layout="constrained")
        panels = figure.subplots(len(indices), columns, squeeze=False)
        for axes in panels.flat:
            axes.set(xticks=[], yticks=[])
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
        for row, (picture, name) in enumerate(zip(pixels, names, strict=True)):
            for axes in panels[row]:
                axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
            panels[row, 0].set_xlabel(f"label {name}", color=MUTED)
            height, width = picture.shape
            for axes, heat in zip(panels[row, 1:], shown.values(), strict=True):
                extent = (-0.5, width - 0.5, height - 0.5, -0.5)
                axes.imshow(heat.maps[row], cmap="inferno", vmin=0, extent=extent, alpha=0.72)
                axes.set_xlabel(heat.captions[row], color=MUTED)
        for axes, title in zip(panels[0], ["image", *shown], strict=True):
            axes.set_title(title)
        return figure

    return Chart("heat", "Which pixels speak for the answer of each variant.", draw)


def _heat_of(directory: object, indices: np.ndarray) -> Heat:
    from vitlab.evaluation.cost import device_for
    from vitlab.evaluation.relevance import heat_of
    from vitlab.experiment.experiment import Experiment

    experiment, device = Experiment.load(str(directory)), device_for("auto")
    model = experiment.objective.backbone.to(device).eval()  # the weights that the study ranks
    images = experiment.data.views("test", indices, device)
    if model.num_classes != len(experiment.data.class_names):
        raise ValueError(f"{directory}: the model was trained without labels, so no pixel speaks for a class.")
    probability, answers = model(images).detach().softmax(dim=1).max(dim=1)
    maps, left = heat_of(model, images)
    names = experiment.data.class_names
    captions = [
        f"{names[k]}  {p:.0%} → {q:.0%}"
        for k, p, q in zip(answers.tolist(), probability.tolist(), left.tolist(), strict=True)
    ]
    return Heat(maps.clamp(min=0).cpu().numpy(), captions)
