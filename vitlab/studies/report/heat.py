"""Which pixels speak for each variant's answer, on the images that come first in the gallery."""

from contextlib import suppress
from itertools import islice

from matplotlib.figure import Figure
from referee.report.drawing import PX, Chart, Layout

from vitlab.analysis.figures import Caption, fill_with_maps
from vitlab.analysis.relevance import heat_of
from vitlab.evaluation.cost import device_for
from vitlab.studies.file.images import Images
from vitlab.studies.report.gallery import interesting, models_shown
from vitlab.studies.results.table import StudyResults

ROWS = 4  # images
CAPTION = (
    "Integrated gradients (Sundararajan et al. 2017) of the shown seed's answer, by cell of an 8 x 8 grid. Black is "
    "zero or evidence against it, and each map has its own scale. Below are the answer, its probability, and what is "
    "left of that when the tenth of the cells that speaks most for it is blurred: little, if the map is right."
)


def heat_chart(results: StudyResults, images: Images) -> Chart | None:
    """Return the chart of the shown models; None where no model can be loaded."""
    if results.study.folds:  # each image has another model
        return None
    from vitlab.experiment.experiment import Experiment  # here, because it takes seconds to import

    indices, device, heats = interesting(results)[:ROWS], device_for("auto"), {}
    for variant, run in models_shown(results).items():
        probe = run.run.config.get("run", {}).get("probe")
        if probe and not (probe == "linear" and run.run.is_frozen):
            continue  # its answer is not that of the network's head
        with suppress(FileNotFoundError, ValueError):  # its checkpoints were removed
            experiment = Experiment.load(run.run.directory)
            model = experiment.objective.backbone.to(device).eval()  # the weights that the study ranks
            if model.num_classes == len(experiment.data.class_names):  # else it was trained without labels
                views = experiment.data.views("test", indices, device)
                heats[variant] = heat_of(model, views, experiment.data.class_names)
    if not heats:
        return None
    pixels = [image / 255 for image in images.raw_images("test", indices.tolist())]
    names = [f"label {results.class_names[results.labels[index]]}" for index in indices]

    def draw(_: StudyResults, layout: Layout) -> Figure:
        shown = dict(islice(heats.items(), 4 if layout.columns > 1 else 2))
        columns, rows = len(shown) + 1, len(indices)
        side = min(layout.width / columns, 170) * PX
        figure = Figure(figsize=(columns * side, rows * (side + 34 * PX)), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        maps = {variant: heat.maps for variant, heat in shown.items()}
        captions: dict[str, list[Caption]] = {
            name: [(text, None) for text in heat.captions] for name, heat in shown.items()
        }
        fill_with_maps(panels, dict.fromkeys(shown, pixels), maps, captions, names)
        return figure

    return Chart("heat", "Which pixels speak for the answer of each variant.", draw)
