"""Write a run's encoder as files that need no vitlab, and the model card that explains how to use them."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import split
from vitlab.experiment.chain import BEFORE
from vitlab.experiment.errors import need

FORMATS = ("safetensors", "onnx")


def run(arguments: Sequence[str]) -> int:
    """Write the files, one line for each."""
    parser = StudyParser(
        "python -m vitlab export --config runs/…",
        "Write a run's encoder as files, and a model card, which has the verdict of the run's study. --ckpt_path FILE, "
        "`best` or `none` chooses other weights.",
    )
    parser.add_argument("--format", nargs="+", choices=FORMATS, default=FORMATS, help="which files [all]")
    parser.add_argument("--out", type=Path, help="folder of the files [export/ in the run directory]")
    parser.add_argument("--study", type=Path, help="a study's folder, like runs/quickstart: a run of its best variant")
    parser.add_argument("--raw", action="store_true", help="the weights as trained, where their average is kept too")
    parser.add_argument("--calibrate", action="store_true", help="fit a temperature of the logits on validation images")
    options, rest = parser.parse_known_args(arguments)
    if "onnx" in options.format:
        need("export", "onnx", "onnxscript", "onnxruntime", what="--format onnx")
    if options.study is not None:
        if given := split(rest)[0]:
            raise ValueError(f"--study {options.study} chooses a run, but --config {given[0]} names one. Give one.")
        rest = ["--config", str(best_run(options.study)), *rest]
    experiment = experiment_of(rest, images=options.calibrate)

    from vitlab.deployment.card import Exported, write_card
    from vitlab.deployment.export import calibrate, export_onnx, write_timm_config
    from vitlab.models.weights import save_weights
    from vitlab.runs.lock import refuse_links

    if options.out is None:
        refuse_links(experiment.directory, experiment.root)
    checkpoint = experiment.restore()
    folder = options.out or experiment.directory / "export"
    folder.mkdir(parents=True, exist_ok=True)
    for name, ours in {"README.md": "library_name: vitlab", "config.json": '"pretrained_cfg"'}.items():
        if (folder / name).is_file() and ours not in (folder / name).read_text(encoding="utf-8", errors="replace"):
            raise ValueError(f"--out: {folder / name} is of something else and would be lost; give another folder.")
    encoder = experiment.objective.backbone if options.raw else experiment.model
    averaged = encoder is not experiment.objective.backbone
    calibration = calibrate(encoder, experiment.data) if options.calibrate else ""
    if calibration:
        print(calibration)
    run_and_config = experiment.directory, experiment.config
    exported = Exported(encoder, experiment.data, *run_and_config, checkpoint, averaged, calibration)
    files = [folder / f"model.{form}" for form in dict.fromkeys(options.format)]
    for file in files:
        (export_onnx if file.suffix == ".onnx" else save_weights)(encoder, file, exported.metadata())
        print(file)
    for_timm = write_timm_config(exported, folder) if "safetensors" in options.format else None
    if for_timm is not None:
        print(for_timm)
        files.append(for_timm)
    print(write_card(exported, files, folder))
    return 0


def best_run(study: Path) -> Path:
    """Return the first run, by seed, of the variant that leads a study."""
    from vitlab.atomic_files import read_json
    from vitlab.runs.directory import RunDirectory, run_directories
    from vitlab.studies.file.study import folder_of_variant

    path = study / "verdict.json"
    if not path.is_file():
        raise FileNotFoundError(f"--study {study}: no {path.name} in it; give the folder of a study with a report.")
    best = next((each["variant"] for each in read_json(path)["variants"]), "no variant")
    folder = folder_of_variant(study, best)
    runs = map(RunDirectory, run_directories(folder) if folder.is_dir() else ())
    usable = [run.path for run in runs if run.last_checkpoint.is_file() and not run.shortfalls]
    own = [path for path in usable if BEFORE not in path.relative_to(folder).parts]
    if not own:
        raise ValueError(f"--study {study}: {best} leads, and has no checkpoint. Give another run by --config.")
    run = min(own, key=lambda path: (int(path.name.rpartition("-")[2]), path))
    print(f"{best}: {run}")
    return run
