"""Draw what one or several runs learned: PNGs, and a page with all of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitlab.commands.options import StudyParser, with_config

SHOWN = 64  # validation images


def run(arguments: Sequence[str]) -> int:
    """Draw the runs side by side."""
    parser = StudyParser(
        "python -m vitlab visualize", "Draw what runs learned, side by side: attention, features, filters, positions."
    )
    parser.add_argument("-c", "--config", nargs="+", action="extend", required=True, help="config.yaml of each run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the PNGs and of index.html")
    options = parser.parse_args(with_config(arguments))

    from vitlab.analysis.image_logging import some_images
    from vitlab.analysis.page import Shown, Subject, write_page
    from vitlab.commands.quiet import quiet
    from vitlab.evaluation.cost import device_for
    from vitlab.experiment.experiment import Experiment

    quiet()
    device = device_for("auto")
    subjects, known = [], []
    for config in dict.fromkeys(options.config):
        experiment = Experiment.load(config)
        model, data = experiment.model.to(device).eval(), experiment.data
        images, labels, names = some_images(data, SHOWN, device)
        classes = data.class_names if experiment.objective.one_class else []
        subjects.append(Subject(str(experiment.directory), model, images, data.mean, data.std, classes))
        known.append(Shown(names, labels))
        if known[-1] != known[0]:
            raise ValueError(f"{config} validates on other images than {options.config[0]}; draw it alone.")
    names = told_apart([Path(subject.name) for subject in subjects])
    named = [replace(subject, name=name) for subject, name in zip(subjects, names, strict=True)]
    print(write_page(named, known[0], options.out))
    return 0


def told_apart(directories: Sequence[Path]) -> list[str]:
    """Return a name for each run, `name-seed-0`, with as many of the folders above as tell all apart."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["-".join(own[-length:]) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
