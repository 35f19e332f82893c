"""`python -m vitlab benchmark …`: what models, data and whole trainings cost on the machine at hand."""

import argparse
import json
import statistics
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from vitlab.atomic_files import write_text
from vitlab.commands.benchmark_memory import benchmark_batch, benchmark_memory
from vitlab.commands.options import StudyParser
from vitlab.evaluation.cost import READY, TURNS, device_for, device_name
from vitlab.experiment.parser import VitlabCLI, build
from vitlab.objectives import Supervised
from vitlab.studies.peers import TRAINER_PRECISION, check_names

PRECISIONS = list(TRAINER_PRECISION)


def benchmark(arguments: Sequence[str]) -> int:
    """Measure an experiment's model (`--config`), or one of the tables below."""
    tables = {
        "model": benchmark_models,
        "parity": benchmark_parity,
        "data": benchmark_data,
        "framework": benchmark_framework,
        "step": benchmark_step,
        "end-to-end": benchmark_end_to_end,
        "scaling": benchmark_scaling,
        "memory": benchmark_memory,
        "batch": benchmark_batch,
    }
    if arguments and arguments[0] in tables:
        return tables[arguments[0]](arguments[1:])
    return benchmark_experiment(arguments, tables)


def benchmark_experiment(arguments: Sequence[str], tables: Iterable[str]) -> int:
    """Print what an experiment's model costs on this machine."""
    from vitlab.evaluation.cost import CostMeter, doubts

    parser = StudyParser(
        "python -m vitlab benchmark --config FILE.yaml",
        "What an experiment's model costs here: parameters, FLOPs, images/s, memory. Other keys as in fit. Tables of "
        f"their own, each with --help: benchmark {', '.join(tables)}.",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it there too")
    # For `compare`, which lets several take turns: measure when a line comes in.
    parser.add_argument("--in_turn", action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args(arguments)
    cli = build("fit", rest, start=False)
    data = cli.datamodule
    side = (data.image_size, data.image_size)
    device = device_for(cli.resolved["trainer"]["accelerator"])
    meter = CostMeter(cli.model.backbone, (data.in_chans, *side), data.batch_size, device)
    if options.in_turn:
        print(READY, flush=True)
        for _ in sys.stdin:
            meter.take_turn()
            print(READY, flush=True)
    else:
        for _ in range(TURNS):
            meter.take_turn()
    cost = meter.cost()
    for name, value in vars(cost).items():
        values = [
            f"{v:,.6g}" if isinstance(v, float) else str(v) for v in (value if isinstance(value, tuple) else [value])
        ]
        print(f"{name:<28} {' to '.join(values)}")
    for doubt in doubts({type(cli.model.backbone).__name__: cost}):
        print(doubt)
    if options.json:
        cost.write(options.json)
    return 0


def benchmark_models(arguments: Sequence[str]) -> int:
    """Print and write a table of our models beside timm's, alternating the two."""
    from vitlab.studies.peers import compare_with_timm, markdown, write_table

    names = [
        "vit_small_patch16_224",
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "swinv2_tiny_window16_256",
    ]
    parser = StudyParser("python -m vitlab benchmark model", "Named models beside timm's: same weights, steps in turn.")
    parser.add_argument("names", nargs="*", metavar="NAME", default=names, help="names of both [a small one of each]")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--batch", type=int, default=8, help="images a step [8]")
    parser.add_argument("--repetitions", type=int, default=15, help="timed steps of each [15]")
    parser.add_argument("--compile", action="store_true", help="compile both with torch.compile")
    parser.add_out("the tables")
    options = parser.parse_args(arguments)
    check_names(options.names)
    device = device_for("auto")
    rows = []
    for name in options.names:
        for precision in options.precision:
            rows += compare_with_timm(name, precision, options.batch, options.repetitions, options.compile, device)
            write_table(rows, device, options.out)
    print(markdown(rows, device), end="")
    return 0


def benchmark_parity(arguments: Sequence[str]) -> int:
    """Print and write how far our models are from timm's of the same name and weights."""
    from vitlab.studies.parity import NAMES, compare, markdown

    parser = StudyParser("python -m vitlab benchmark parity", "Are our models timm's? Same weights and image, float32.")
    parser.add_argument("names", nargs="*", metavar="NAME", default=NAMES, help="names of both [15 of all families]")
    parser.add_out("the table")
    options = parser.parse_args(arguments)
    check_names(options.names)
    rows = []
    for name in options.names:
        rows.append(compare(name))
        write_text(options.out / "parity.md", markdown(rows))
    print(markdown(rows), end="")
    return 0


def benchmark_data(arguments: Sequence[str]) -> int:
    """Print and write how fast photographs and small images become batches, beside timm's and torchvision's way."""
    from vitlab.studies import augmentation_cost, loaders

    parser = StudyParser("python -m vitlab benchmark data", "Loading and distorting, beside timm and torchvision.")
    parser.add_argument("--root", type=Path, help="photographs, a folder a class [some that are made, 500 x 375 px]")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of the three tables [60]")
    parser.add_out("the tables")
    options = parser.parse_args(arguments)
    parts = [loaders.markdown(loaders.measure_photos(options.root, options.seconds))]
    parts.append(augmentation_cost.markdown(augmentation_cost.measure_small_images(options.seconds)))
    write_text(options.out / "data.md", "\n".join(parts))
    print("\n".join(parts), end="")
    return 0


def benchmark_framework(arguments: Sequence[str]) -> int:
    """Print what Lightning's loop adds to a plain one, step by step in turn, and how long a command takes to start."""
    from vitlab.studies.end_to_end import IMPORTS, start_up
    from vitlab.studies.overhead import WARM_UP, share

    parser = StudyParser(
        "python -m vitlab benchmark framework --config FILE.yaml",
        "A run beside a plain PyTorch loop with the same model, data and optimizer. Other keys as in fit.",
    )
    parser.add_argument("--steps", type=int, default=40, help="timed steps of each [40]")
    parser.add_argument("--starts", type=int, default=5, help="starts of each command that is timed; 0: none [5]")
    options, rest = parser.parse_known_args(arguments)
    model = build("fit", rest, start=False).model
    if not isinstance(model, Supervised) or model.ema is not None:
        raise ValueError("The plain loop trains on labels without an average: give a Supervised experiment, ema: null.")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        beside = {"class_path": "vitlab.studies.overhead.BesideBareLoop", "init_args": {"file": str(file)}}
        changes = {"trainer.accelerator": "cpu", "trainer.callbacks": json.dumps([beside])}
        run_aside(rest, folder, options.steps + WARM_UP, changes)
        seconds = json.loads(file.read_text(encoding="utf-8"))
    q1, middle, q3 = share(seconds)
    print(f"{device_name(device_for('cpu'))}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    step = statistics.median(seconds["bare"])
    print(f"a step of {1000 * step:.1f} ms takes {middle:.3f} [{q1:.3f}, {q3:.3f}] times as long within the framework")
    if options.starts:
        spent = start_up(options.starts)
        imports = statistics.median(s.processor_seconds for s in spent["imports"])
        for name, times in spent.items():
            took = statistics.median(s.processor_seconds for s in times)
            print(f"{name:<12} {took:6.2f} s of processor time, {took / imports:.2f} times `{IMPORTS}`")
    return 0


def benchmark_step(arguments: Sequence[str]) -> int:
    """Print and write what an experiment's training step spends its time on."""
    from vitlab.studies.step_profile import WARM_UP, markdown, read

    parser = StudyParser(
        "python -m vitlab benchmark step --config FILE.yaml",
        "A training step by phases and by kinds of operations. Other keys as in fit.",
    )
    parser.add_argument("--steps", type=int, default=20, help="that are measured, and as many more watched [20]")
    parser.add_out("the tables")
    options, rest = parser.parse_known_args(arguments)
    if options.steps < 1:
        raise ValueError(f"--steps is {options.steps}; measure 1 or more.")
    with TemporaryDirectory() as folder:
        file = Path(folder) / "profile.json"
        init_args = {"file": str(file), "steps": options.steps}
        profiler = {"class_path": "vitlab.studies.step_profile.StepProfiler", "init_args": init_args}
        steps = 2 * options.steps + WARM_UP + 2  # a loader is asked for a batch ahead
        cli = run_aside(rest, folder, steps, {"trainer.profiler": json.dumps(profiler)})
        found = read(file)
    header = (
        f"{type(cli.model).__name__} with {type(cli.model.backbone).__name__}, batches of {cli.datamodule.batch_size} "
        f"images of {cli.datamodule.image_size} px, {cli.trainer.precision}. "
        f"{device_name(cli.trainer.strategy.root_device)}, threads: {torch.get_num_threads()}, torch "
        f"{torch.__version__}; {options.steps} steps."
    )
    table = markdown(found, header)
    write_text(options.out / "step.md", table)
    print(table, end="")
    return 0


def run_aside(arguments: Sequence[str], folder: str, steps: int, changes: dict[str, str]) -> VitlabCLI:
    """Train so many steps of an experiment for the sake of their times: nothing is evaluated, uploaded or kept."""
    changes = {
        "run.root": folder,
        "run.test": "false",
        "run.wandb.mode": "disabled",
        "trainer.max_steps": str(steps),
        "trainer.max_epochs": str(steps),  # as many as they may need
        "trainer.limit_val_batches": "0",
        **changes,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*could not find the monitored key.*")  # nothing is validated
        words = [word for key, value in changes.items() for word in (f"--{key}", value)]
        return build("fit", [*arguments, *words], start=True)


def benchmark_end_to_end(arguments: Sequence[str]) -> int:
    """Print and write a table of whole trainings beside those of timm's own script."""
    from vitlab.studies.end_to_end import Training, markdown, race

    parser = StudyParser(
        "python -m vitlab benchmark end-to-end",
        "Whole trainings on photographs beside timm's train.py, in turn. The script is in timm's repository: "
        "https://github.com/huggingface/pytorch-image-models, of the release that is installed.",
    )
    names = ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"]
    parser.add_argument("names", nargs="*", metavar="NAME", default=names, help="names of both [a small one of each]")
    parser.add_argument("--root", type=Path, required=True, help="photographs: train/CLASS and val/CLASS")
    parser.add_argument("--train_py", type=Path, required=True, help="timm's train.py")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--batch", type=int, default=32, help="images a step [32]")
    parser.add_argument("--epochs", type=int, default=1, help="of each training [1]")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode [1]")
    parser.add_argument("--repetitions", type=int, default=3, help="trainings of each [3]")
    parser.add_argument("--compile", action="store_true", help="both with torch.compile")
    parser.add_out("the table")
    options = parser.parse_args(arguments)
    check_names(options.names)
    if not options.train_py.is_file():
        raise FileNotFoundError(f"--train_py {options.train_py}: no such file; take train.py from timm's repository.")
    for split in ("train", "val"):
        if not (options.root / split).is_dir():
            raise FileNotFoundError(f"--root {options.root} has no folder {split}; timm's script needs train and val.")
    device = device_for("auto")
    races = []
    for name in options.names:
        for precision in options.precision:
            training = Training(
                name, precision, options.root, options.batch, options.epochs, options.workers, options.compile
            )
            races.append(race(training, options.train_py, device.type, options.repetitions))
            write_text(options.out / "end_to_end.md", markdown(races, device_name(device)))
    print(markdown(races, device_name(device)), end="")
    return 0


def benchmark_scaling(arguments: Sequence[str]) -> int:
    """Draw and write how attention and blocks scale with images, windows, widths, depths and batches."""
    from vitlab.studies.scaling import SWEEPS, Shape, measure, write_table
    from vitlab.studies.scaling_figure import write_figure

    parser = StudyParser(
        "python -m vitlab benchmark scaling",
        "ViT's and Swin's attention layer and block beside their formulas (Liu et al. 2021, equations 1 and 2), along "
        "the size of images, windows, width, depth and batch.",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float32")
    parser.add_argument("--batch", type=int, help="images, but where batches are what grows [1; 64 on a GPU]")
    parser.add_argument("--repetitions", type=int, default=11, help="timed forward passes of each [11]")
    parser.add_out("table and figure")
    options = parser.parse_args(arguments)
    device = device_for("auto")
    batch = options.batch
    if batch is None:
        batch = 64 if device.type == "cuda" else 1  # a GPU is idle with one image
    base = Shape(batch=batch)
    points = measure(SWEEPS, base, options.precision, options.repetitions, device)
    write_table(points, options.out)
    threads, versions = torch.get_num_threads(), f"{options.precision}, torch {torch.__version__}"
    write_figure(points, base, f"{device_name(device)},\nthreads: {threads}, {versions}", options.out)
    print(options.out / "scaling.png")
    return 0
