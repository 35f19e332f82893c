"""One function a command of `python -m vitlab`, and how a user's mistake becomes one message and exit status 2."""

import json
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from vitlab.atomic_files import write_text
from vitlab.commands.benchmark import benchmark
from vitlab.commands.options import StudyParser
from vitlab.commands.robustness import robustness
from vitlab.config import Config, load_yaml, merge, pairs
from vitlab.data import ImageDataModule
from vitlab.data.decoding import as_text, open_rgb
from vitlab.data.folder import walk
from vitlab.data.photos import Picture
from vitlab.evaluation.allocator import hold_freed_memory
from vitlab.evaluation.cost import device_for
from vitlab.experiment.errors import readable
from vitlab.experiment.parser import VitlabCLI, build
from vitlab.models.weights import unsafe
from vitlab.runs.wandb import Wandb

log = logging.getLogger("vitlab")


def run(command: str, arguments: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    quiet()
    hold_freed_memory()
    commands = {
        "prepare": prepare,
        "compare": compare,
        "doctor": doctor,
        "replay": replay,
        "benchmark": benchmark,
        "probe": probe,
        "export": export,
        "predict": predict,
        "visualize": visualize,
        "transfer": transfer,
        "robustness": robustness,
    }
    try:
        if command in commands:
            return commands[command](arguments)
        return train_or_evaluate(command, arguments)
    except (ValueError, OSError, UnpicklingError, MisconfigurationException) as error:
        if os.environ.get("VITLAB_DEBUG"):
            raise
        if isinstance(error, UnpicklingError):  # of a checkpoint: other files are read by functions that name them
            error = unsafe(dict(pairs(arguments)).get("ckpt_path", "The run's checkpoint"), error)
        print(f"error: {readable(error)}", file=sys.stderr)
        return 2
    except SystemExit as stop:
        return int(stop.code or 0)


def train_or_evaluate(command: str, arguments: Sequence[str]) -> int:
    """fit, validate, test, predict."""
    build(command, arguments, start=True)
    return 0


def quiet() -> None:
    """Let our own lines through and silence what peers print at each start."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    # Of several processes one speaks.
    log.setLevel(logging.INFO if rank_zero_only.rank == 0 else logging.WARNING)  # type: ignore[attr-defined]
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What the user asked for: `trainer.profiler`, `trainer.enable_model_summary`.
    for name in ("profilers.profiler", "callbacks.model_summary"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(log.level)
    # In-memory data is read by the main process on purpose; epochs shorter than the logging interval are logged whole.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # A run that ends within its first epoch has validated nothing, and has no best epoch.
    warnings.filterwarnings("ignore", message=r".*monitor='val/.*'\)` could not find the monitored key.*")
    # DINO and MSN have no loss to validate by; `val/knn` comes from a callback.
    warnings.filterwarnings("ignore", message=".*but have no `validation_step`.*")
    # Both say that a run is continued or taken further, which is what was asked for.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")
    # True of every run on a cluster's own machine that is none of its jobs.
    warnings.filterwarnings("ignore", message=".*`srun` command is available.*")
    # What the first process logs for all: speed, k-NN.
    warnings.filterwarnings(
        "ignore", message=r".*use `self.log\('(images_per_second|data_wait|tflops|mfu|val/(knn|rank|std))'.*"
    )
    # Lightning 2.6 asks torch's pytree in a way that torch 2.15 has deprecated.
    warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")


class CommandLineWorkshop:
    """What a study asks of the rest of vitlab (`vitlab.studies.workshop.Workshop`)."""

    def resolve(self, config: Config) -> Config:
        """Return the complete configuration, as a run would write it; a mistake raises ValueError."""
        return self._build(config).resolved

    def data(self, config: Config) -> ImageDataModule:
        """Return the data module of a configuration."""
        return self._build(config).data_for_model

    def _build(self, config: Config) -> VitlabCLI:
        try:
            return VitlabCLI("fit", config, start=False)
        except ValueError as error:
            raise ValueError(readable(error)) from None


def compare(arguments: Sequence[str]) -> int:
    """Run a study and write its report."""
    from vitlab.studies.compare import RunsFailed, emit
    from vitlab.studies.compare import compare as run_study
    from vitlab.studies.execution.export_jobs import write_slurm, write_sweep
    from vitlab.studies.execution.slurm import slurm

    parser = StudyParser(prog="python -m vitlab compare", description="Run a study: variants × seeds, then a report.")
    parser.add_argument("-c", "--config", required=True, type=Path, help="the study's YAML file")
    parser.add_argument(
        "--overwrite", action="store_true", help="train anew what has another configuration or was cut short"
    )
    parser.add_argument("--root", type=Path, default=Path("runs"), help="where runs lie [runs]")
    engines = {"wandb": write_sweep, "slurm": write_slurm}
    parser.add_argument("--emit", choices=engines, help="write a W&B sweep or a SLURM array of the runs, start none")
    parser.add_argument("--dashboard", action="store_true", help="show the report in W&B; offline without a key")
    parser.add_argument(
        "--slurm", nargs="*", metavar="KEY=VALUE", help="train as a SLURM array, like partition=gpu time=240; report"
    )
    options = parser.parse_args(arguments)
    if options.emit:
        print(emit(options.config, CommandLineWorkshop(), engines[options.emit], options.root))
        return 0
    dashboard = None
    if options.dashboard:
        from vitlab.studies.report.wandb import write_dashboard  # here: it imports wandb

        settings = Wandb()
        dashboard = partial(write_dashboard, online=settings.enabled and not settings.offline)
    cluster = None if options.slurm is None else partial(slurm, settings=options.slurm)
    workshop = CommandLineWorkshop()
    try:
        report = run_study(
            options.config, workshop, options.root, options.overwrite, dashboard=dashboard, cluster=cluster
        )
    except RunsFailed as failed:
        print(failed, file=sys.stderr)
        return 1
    print(f"The report: {report}")
    return 0


def prepare(arguments: Sequence[str]) -> int:
    """Write a folder of photographs into one file of small ones, which takes the folder's place as `--data.root`."""
    from vitlab.data import packed

    parser = StudyParser("python -m vitlab prepare", "Make photographs small, once for all.")
    parser.add_argument("--root", type=Path, required=True, help="folder of the photographs, as for training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the one file, and next --data.root")
    parser.add_argument("--short_side", type=int, default=256, help="most pixels of the shorter side [256, for 224]")
    parser.add_argument("--pixels", action="store_true", help="RGB, of which crops are cut without decoding; larger")
    options = parser.parse_args(arguments)
    print(packed.prepare(options.root, options.out, options.short_side, options.pixels))
    return 0


def probe(arguments: Sequence[str]) -> int:
    """Print how good a run's frozen features are (k-NN, linear, low-shot) and write it as JSON into the run directory.

    The features are computed once for each checkpoint. `--ckpt_path none` measures the weights as they are built: a
    pretrained timm model, or the untrained encoder.
    """
    from vitlab.evaluation.probe import features_of, hold_out
    from vitlab.evaluation.probe import probe as measure

    cli, path = restore(arguments)
    device = device_for("auto")
    encoder = cli.model.encoder.to(device)
    # What the features depend on: the model, the data, and which weights.
    facts = [cli.resolved["model"], cli.resolved["data"], cli.resolved["seed_everything"]]
    stamp = f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}" if path else "none"
    name = path.stem if path else "none"
    splits = features_of(
        encoder,
        lambda split: cli.datamodule.batches(split, device),
        cli.directory / "features" / f"{name}.safetensors",
        json.dumps([*facts, stamp], sort_keys=True),
    )
    if cli.datamodule.image_names("val") == cli.datamodule.image_names("test"):
        splits |= hold_out(splits["train"])  # or each test image would be its own nearest neighbor
    result = measure(splits, cli.datamodule.num_classes)
    print(f"{path or 'weights as built'}: {result.features} features, {result.train_images:,} training images")
    print(f"k-NN (k = 20)     {result.knn}\nlinear probe      {result.linear}   λ = {result.strength:g}")
    for low_shot in result.low_shot:
        print(low_shot)
    write_text(cli.directory / f"probe-{name}.json", json.dumps(result.as_dict(), indent=2))
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """Train an experiment twice for a few steps, once killed on the way; 0 if both agree to the bit, 1 if not."""
    from vitlab.commands.check_resume import examine

    parser = StudyParser(
        "python -m vitlab doctor --config FILE.yaml",
        "Does an experiment go on after a kill as if nothing had happened, here? Other arguments change it as in fit.",
    )
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each of the two runs [40]")
    parser.add_argument("--kills", type=int, default=3, help="how often one of them is killed [3]")
    parser.add_argument("--kill_seed", type=int, default=0, help="decides when [0]")
    parser.add_argument("--out", type=Path, help="keep both runs in this folder, which must be new")
    options, rest = parser.parse_known_args(arguments)
    if options.steps < 4 or options.kills < 1:
        raise ValueError(f"--steps {options.steps} --kills {options.kills}: give 4 steps or more, and 1 kill or more.")
    if options.out is not None and options.out.exists():
        raise ValueError(f"--out {options.out} exists; give a new folder, the two runs begin from nothing.")
    config = build("fit", rest, start=False).resolved
    with TemporaryDirectory(prefix="vitlab-doctor-") as temporary:
        folder = options.out or Path(temporary)
        kills, found = examine(config, options.steps, options.kills, folder, options.kill_seed)
    print(f"Killed after the states of steps {', '.join(map(str, kills)) or '(none: it was too fast)'}, and continued.")
    if found:
        print("Not what an undisturbed run gives:\n" + "\n".join(f"  {place}" for place in found[:10]))
        return 1
    print("Weights, averages, optimizer, random generators, metrics and predictions equal those of an undisturbed run.")
    return 0


def replay(arguments: Sequence[str]) -> int:
    """Compute a step once more whose loss or gradient was not finite, from what its run kept."""
    from vitlab.runs.finite_steps import Replay

    parser = StudyParser("python -m vitlab replay", "Compute a step that was not finite once more.")
    parser.add_argument("folder", type=Path, help="the folder not_finite in the directory of a run that stopped so")
    folder = parser.parse_args(arguments).folder
    if not (folder / "report.json").is_file():
        raise FileNotFoundError(f"{folder} holds no report.json; give the folder not_finite of a run that stopped so.")
    with TemporaryDirectory(prefix="vitlab-replay-") as temporary:
        aside = {"run": {"root": temporary, "overwrite": True, "wandb": {"mode": "disabled"}}}
        cli = VitlabCLI("fit", merge(load_yaml(folder.parent / "config.yaml"), aside), start=False)
        replayed = Replay(folder)
        cli.trainer.callbacks.insert(0, replayed)  # type: ignore[attr-defined]
        with suppress(SystemExit):
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=folder / "state.ckpt")
    if replayed.result is None:
        raise ValueError(f"{folder / 'state.ckpt'} could not be taken up; was {folder.parent / 'config.yaml'} changed?")
    print(f"Step {replayed.result.step}: {replayed.result}")
    return 0


def restore(arguments: Sequence[str], images: bool = True) -> tuple[VitlabCLI, Path | None]:
    """Build what a configuration names with the weights of its checkpoint; None for weights as they are built.

    Args:
        images: The run's own images are needed, so that they have to be there.
    """
    cli = build("test", arguments, start=False, images=images)
    path = cli.checkpoint()
    if path is not None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "state_dict" not in state:
            raise ValueError(f"{path} is no checkpoint of a run; weights alone go into --model.init_from.")
        cli.model.load_state_dict(state["state_dict"])
    return cli, path


def export(arguments: Sequence[str]) -> int:
    """Write a run's encoder as files that need no vitlab, and the model card that tells how to use them."""
    from vitlab.deployment.card import Exported, write_card
    from vitlab.deployment.export import export_onnx, export_program
    from vitlab.models.weights import save_weights

    writers = {"safetensors": save_weights, "onnx": export_onnx, "pt2": export_program}
    parser = StudyParser(
        "python -m vitlab export --config runs/…/config.yaml",
        "Write a run's encoder as files, and a model card. --ckpt_path FILE, `best` or `none` chooses other weights.",
    )
    parser.add_argument("--format", nargs="+", choices=[*writers], default=[*writers], help="which files [all]")
    parser.add_argument("--out", type=Path, help="folder of the files [export/ in the run directory]")
    parser.add_argument("--raw", action="store_true", help="the weights as trained, where their average is kept too")
    options, rest = parser.parse_known_args(arguments)
    cli, checkpoint = restore(rest, images=False)
    encoder = cli.model.backbone if options.raw else cli.model.encoder
    averaged = encoder is not cli.model.backbone
    exported = Exported(encoder, cli.datamodule, cli.directory, cli.resolved, checkpoint, averaged)
    folder = options.out or cli.directory / "export"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"model.{form}" for form in dict.fromkeys(options.format)]
    for file in files:
        writers[file.suffix.removeprefix(".")](encoder, file, exported.metadata())
        print(file)
    print(write_card(exported, files, folder))
    return 0


def visualize(arguments: Sequence[str]) -> int:
    """Draw what one or several runs learned: PNGs, and a page with all of them."""
    from vitlab.analysis.page import Subject, write_page
    from vitlab.runs.image_logging import some_images

    parser = StudyParser(
        "python -m vitlab visualize", "Draw what runs learned, side by side: attention, features, filters, positions."
    )
    parser.add_argument("-c", "--config", nargs="+", action="extend", required=True, help="config.yaml of each run")
    parser.add_argument("--images", type=Path, help="folder of pictures [64 of the validation images]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the PNGs and of index.html")
    options = parser.parse_args(arguments)
    device = device_for("auto")
    subjects, known = [], []
    for config in dict.fromkeys(options.config):
        cli, _ = restore(["--config", config])
        model, data = cli.model.encoder, cli.datamodule
        if options.images is None:
            images, labels, names = some_images(data, 64, device)
        else:
            found = pictures_in(options.images, 64)
            images, labels, names = data.view_of(list(found.values()), device), None, list(found)
        name = f"{cli.directory.parent.name}-{cli.directory.name}"
        classes = data.class_names if cli.model.task else []
        subjects.append(Subject(name, model.to(device).eval(), images, data.mean, data.std, classes))
        known.append((names, labels))
        if known[-1] != known[0]:
            raise ValueError(f"{config} validates on other images than {options.config[0]}; give --images FOLDER.")
    print(write_page(subjects, *known[0], options.out))
    return 0


def transfer(arguments: Sequence[str]) -> int:
    """Test runs at other image sizes, windows in proportion: as they are and, if asked, after fine-tuning there."""
    import pandas as pd

    from vitlab.analysis.transfer import write_transfer
    from vitlab.commands.resolution_transfer import transfer_run

    parser = StudyParser(
        "python -m vitlab transfer",
        "Test trained runs at other image sizes, windows grown in proportion. Other arguments change the runs' "
        "configurations, e.g. --data.eval_batch_size 100.",
    )
    parser.add_argument("-c", "--config", nargs="+", action="extend", required=True, help="config.yaml of each run")
    parser.add_argument("--sizes", nargs="+", type=int, required=True, help="sides of the images in px")
    parser.add_argument("--epochs", type=int, default=0, help="fine-tune so long at each other size [not at all]")
    parser.add_argument("--lr", type=float, help="of the fine-tuning [4 %% of the training's, as published]")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables, the figure and the tuned runs")
    options, rest = parser.parse_known_args(arguments)
    if options.epochs < 0 or min(options.sizes) < 1:
        raise ValueError(f"--epochs {options.epochs}, --sizes {options.sizes}: give 0 or more, and sides from 1 px.")

    trained: dict[tuple[str, int], tuple[VitlabCLI, Path]] = {}
    for config in dict.fromkeys(options.config):
        cli = build("test", ["--config", config, *rest], start=False)
        checkpoint = cli.checkpoint()
        if not cli.model.backbone.num_classes or checkpoint is None:
            raise ValueError(f"{config}: not a finished run of a classifier; give the config.yaml of one.")
        run = cli.directory.parent.name, cli.resolved["seed_everything"]
        if run in trained:
            raise ValueError(f"{config} is a second run called {run[0]}, seed {run[1]}; a table needs other names.")
        trained[run] = cli, checkpoint
        first = next(iter(trained.values()))[0]
        if cli.datamodule.image_names("test") != first.datamodule.image_names("test"):
            raise ValueError(f"{config} is tested on other images than {options.config[0]}; give runs of the same.")
    rows = [
        {"name": name, "seed": seed} | row
        for (name, seed), (cli, checkpoint) in trained.items()
        for row in transfer_run(cli, checkpoint, options.sizes, options.epochs, options.lr, options.out)
    ]
    print(write_transfer(pd.DataFrame(rows), options.out).read_text(encoding="utf-8"), end="")
    return 0


def pictures_in(folder: Path, most: int) -> dict[str, Picture]:
    """Return the first pictures in a folder and below, by their paths in it; say which cannot be decoded."""
    found: dict[str, Picture] = {}
    for file in walk(folder, Counter()):
        try:
            found[as_text(os.path.relpath(file, folder))] = open_rgb(file)
        except ValueError as error:
            log.info("%s cannot be decoded and is left out: %s.", file, error)
        if len(found) == most:
            break
    if not found:
        raise FileNotFoundError(f"--images: {folder} holds no picture; give a folder of .jpg or .png files.")
    return found


def predict(arguments: Sequence[str]) -> int:
    """Write the logits of every test image; or, for `--images`, what a run says about a user's own pictures."""
    parser = StudyParser(
        "python -m vitlab predict --config runs/…",
        "What a run says about your pictures; without --images, the logits of its test images, as predictions.parquet "
        "in the run directory. Other arguments change the run's configuration, e.g. --ckpt_path best.",
    )
    parser.add_argument("--images", type=Path, nargs="+", help="pictures, and folders of them, nested as you like")
    parser.add_argument("--out", type=Path, help="folder of the tables and of the page index.html")
    parser.add_argument("--raw", action="store_true", help="the raw weights, where the run also keeps their average")
    options, rest = parser.parse_known_args(arguments)
    if options.images is None and (options.out is not None or options.raw):
        raise ValueError("--out and --raw go with --images: your own pictures, or folders of them.")
    if options.images is None:
        return train_or_evaluate("predict", rest)
    if options.out is None:
        raise ValueError("--images needs --out FOLDER: where the tables and the page are written.")

    from vitlab.deployment.predict import ask, write_answers

    cli, checkpoint = restore(rest, images=False)
    answers = ask(cli.model, cli.datamodule, options.images, device_for("auto"), options.raw)
    page = write_answers(answers, str(checkpoint or cli.directory), options.out)
    print(f"{len(answers.files)} pictures: {page}")
    if answers.broken:
        first = "\n".join(f"  {name}: {why}" for name, why in list(answers.broken.items())[:3])
        print(
            f"{len(answers.broken)} could not be decoded and are left out (the page names all):\n{first}",
            file=sys.stderr,
        )
    return 0
