"""`predict`, `embed` and `visualize`: classify pictures, write their features, and draw what runs learned."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vitlab.commands.options import StudyParser, model_of, quiet


def of_pictures(command: str, description: str) -> StudyParser:
    """Return a parser with the options of both commands that take pictures."""
    changes = "Other arguments change the run's configuration, e.g. --ckpt_path best, or none for the weights as built."
    parser = StudyParser(f"python -m vitlab {command} --config runs/…", f"{description} {changes}")
    images = "pictures, folders of them, nested as you like, and tables that list them (CSV, TSV, Parquet)"
    parser.add_argument("--images", type=Path, nargs="+", required=True, help=images)
    return parser


def run_predict(arguments: Sequence[str]) -> int:
    """Write the tables and the page."""
    parser = of_pictures("predict", "Classify any pictures.")
    out = "folder of the tables and of the page index.html [predictions]"
    parser.add_argument("--out", type=Path, default=Path("predictions"), help=out)
    options, rest = parser.parse_known_args(arguments)
    model = model_of(rest)

    from vitlab.deployment.predict import write_answers

    answers = model.classify(options.images)
    page = write_answers(answers, model.source, options.out)
    print(f"{len(answers.files):,} picture{'' if len(answers.files) == 1 else 's'}: {page}")
    return 0


def run_embed(arguments: Sequence[str]) -> int:
    parser = of_pictures("embed", "Write the features of any pictures as a table with their names, and a map of them.")
    parser.add_argument("--out", type=Path, required=True, help="folder of features.parquet and map.png")
    options, rest = parser.parse_known_args(arguments)
    if options.out.suffix == ".parquet":
        parser.error(f"--out {options.out}: give a folder. Its table is features.parquet.")

    import numpy as np

    from vitlab.analysis.canvas import write_png
    from vitlab.analysis.figures import draw_map
    from vitlab.atomic_files import written_whole

    table = model_of(rest).embed(*options.images)
    with written_whole(options.out / "features.parquet") as file:
        table.to_parquet(file, index=False)
    embedding = np.stack(table["embedding"].tolist())
    if len(table) >= 3:  # of fewer, two principal components make no map
        write_png(draw_map(embedding, table["file"].tolist()), options.out / "map.png")
    pictures = f"{len(table):,} picture{'' if len(table) == 1 else 's'}"
    print(f"{pictures}, {embedding.shape[1]} features: {options.out}")
    return 0


def run_visualize(arguments: Sequence[str]) -> int:
    """Draw the runs side by side."""
    about = "Draw what runs learned, side by side: attention, features, filters, positions."
    parser = StudyParser("python -m vitlab visualize runs/…", about)
    parser.add_argument("--out", type=Path, required=True, help="folder of the PNGs and of index.html")
    configs, options, rest = parser.parse_runs(arguments)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")

    from vitlab.analysis.image_logging import some_images
    from vitlab.analysis.page import Shown, Subject, write_page
    from vitlab.evaluation.cost import device_for
    from vitlab.experiment.experiment import Experiment

    quiet()
    device = device_for("auto")
    subjects, known = [], []
    for config in configs:
        experiment = Experiment.load(config)
        model, data = experiment.model.to(device).eval(), experiment.data
        images, labels, names = some_images(data, 64, device)
        classes = data.class_names if experiment.objective.one_class else []
        subjects.append(Subject(str(experiment.directory), model, images, data.mean, data.std, classes))
        known.append(Shown(names, labels))
        if known[-1] != known[0]:
            raise ValueError(f"{config} validates on other images than {configs[0]}; draw it alone.")
    names = unique_names([Path(subject.name) for subject in subjects])
    named = [replace(subject, name=name) for subject, name in zip(subjects, names, strict=True)]
    print(write_page(named, known[0], options.out))
    return 0


def unique_names(directories: Sequence[Path]) -> list[str]:
    """Return a name for each run, `name-seed-0`, with as many of the folders above as make all unique."""
    parts = [directory.resolve().parts for directory in directories]
    for length in range(2, max(map(len, parts)) + 1):
        names = ["-".join(own[-length:]) for own in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
