"""Draw what one or several runs learned: PNGs, and a page with all of them."""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitlab.commands.options import StudyParser

if TYPE_CHECKING:
    from vitlab.data.photos import Picture

log = logging.getLogger("vitlab")

SHOWN = 64


def run(arguments: Sequence[str]) -> int:
    """Draw the runs side by side."""
    parser = StudyParser(
        "python -m vitlab visualize", "Draw what runs learned, side by side: attention, features, filters, positions."
    )
    parser.add_argument("-c", "--config", nargs="+", action="extend", required=True, help="config.yaml of each run")
    parser.add_argument("--images", type=Path, help=f"folder of pictures [{SHOWN} of the validation images]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the PNGs and of index.html")
    options = parser.parse_args(arguments)

    from vitlab.analysis import page
    from vitlab.analysis.image_logging import some_images
    from vitlab.analysis.page import Subject, write_page
    from vitlab.commands.quiet import quiet
    from vitlab.evaluation.collapse import collapse_curves
    from vitlab.evaluation.cost import device_for
    from vitlab.evaluation.relevance import heat_of
    from vitlab.experiment.experiment import Experiment
    from vitlab.objectives.heads import Prototypes

    quiet()
    device = device_for("auto")
    pictures = None if options.images is None else pictures_in(options.images, SHOWN)
    subjects, known, directories = [], [], []
    for config in dict.fromkeys(options.config):
        experiment = Experiment.load(config)
        directories.append(experiment.directory)
        model, data = experiment.model, experiment.data
        if pictures is None:
            images, labels, names = some_images(data, SHOWN, device)
            masks = data.masks("val")
            masks = None if masks is None else masks[:: max(1, len(masks) // SHOWN)][: page.SHOWN]
        else:
            images, labels, names = data.view_of(list(pictures.values()), device), None, list(pictures)
            masks = None
        classes = data.class_names if experiment.objective.one_class else []
        curves = collapse_curves(experiment.directory / "metrics.csv")
        outputs = [len(part.weight_v) for part in experiment.objective.modules() if isinstance(part, Prototypes)]
        seen = (images, data.mean, data.std, classes)
        own = (curves, outputs[0] if outputs else None, masks)
        model = model.to(device).eval()
        heat = heat_of(model, images[: page.SHOWN]) if experiment.objective.one_class else None
        subjects.append(Subject(str(config), model, *seen, *own, heat))
        known.append((names, labels))
        if known[-1] != known[0]:
            raise ValueError(f"{config} validates on other images than {options.config[0]}; give --images FOLDER.")
    named = [replace(each, name=name) for each, name in zip(subjects, told_apart(directories), strict=True)]
    print(write_page(named, *known[0], options.out))
    return 0


def told_apart(directories: Sequence[Path]) -> list[str]:
    """Return a name for each run, `name-seed-0`, with as many of the folders above as tell all apart."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["-".join(own[-length:]) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def pictures_in(folder: Path, most: int) -> dict[str, "Picture"]:
    """Return the first pictures in a folder and below, by their paths in it; log which cannot be decoded."""
    from vitlab.data.decoding import as_text, open_rgb
    from vitlab.data.folder import walk

    pictures: dict[str, Picture] = {}
    for file in walk(folder):
        try:
            pictures[as_text(os.path.relpath(file, folder))] = open_rgb(file)
        except ValueError as error:
            log.info("%s cannot be decoded and is left out: %s.", file, error)
        if len(pictures) == most:
            break
    if not pictures:
        raise FileNotFoundError(f"--images: {folder} has no picture; give a folder of .jpg or .png files.")
    return pictures
