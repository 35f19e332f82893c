"""`list`, `rm` and `verify`: list runs, remove them, and repeat one to see whether it is the same run.

`list` parses no YAML, which would take seconds for a thousand runs. On the machine of the run, with its versions and
number of threads, a repetition is equal to the bit. Another kind of processor rounds differently: it sums in another
order, and after some steps the weights differ.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from vitlab.atomic_files import regular
from vitlab.commands.options import StudyParser
from vitlab.config import Config, flatten, short
from vitlab.runs.directory import CONFIG, ENVIRONMENT, METRICS, SUMMARY, RunDirectory, config_file, run_directories
from vitlab.runs.lock import check_idle, run_lock

COLUMNS = ("run", "status", "model", "epochs", "result", "MB", "study", "written")

# `fit` writes config.yaml, so each key has its place.
OBJECTIVE = re.compile(r"^model:\n  class_path: (?:\S+\.)?(\w+)", re.MULTILINE)
BACKBONE = re.compile(
    r"^    backbone:\n      class_path: (?:\S+\.)?(\w+)(?:\n      init_args:\n(?:        .*\n)*?        name: (\S+))?",
    re.MULTILINE,
)
EPOCHS = re.compile(r"^  max_epochs: (\d+)", re.MULTILINE)
STUDY = re.compile(r"^    group: (?!null$)(.*)", re.MULTILINE)


def run_list(arguments: Sequence[str]) -> int:
    """Print a line for each run."""
    parser = StudyParser("python -m vitlab list", "List the runs below a folder, one line each.")
    parser.add_argument("root", nargs="?", type=Path, default=Path("runs"), help="folder of runs [runs]")
    root = parser.parse_args(arguments).root
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}. Give one that has runs in it.")

    def by_number(path: Path) -> list[str | int]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(path))]

    runs = [RunDirectory(directory) for directory in sorted(run_directories(root), key=by_number)]
    if not runs:
        print(f"No runs below {root}.")
        return 0
    rows = [COLUMNS, *map(_row, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(w) if name in ("epochs", "MB") else text.ljust(w)
            for name, text, w in zip(COLUMNS, row, widths, strict=True)
        ]
        print("  ".join(cells).rstrip())
    count = "1 run" if len(runs) == 1 else f"{len(runs):,} runs"
    print(f"{count}, {sum(run.size for run in runs) / 1e6:,.1f} MB")
    return 0


def _row(run: RunDirectory) -> tuple[str, ...]:
    config = (run.path / CONFIG).read_text(encoding="utf-8", errors="replace")
    try:
        summary = run.summary
        status = "partial" if run.shortfalls else "finished"
    except (FileNotFoundError, ValueError):
        summary, status = {}, "damaged" if run.is_finished else "unfinished"
    status = "being written" if run.writer else status
    objective, backbone = OBJECTIVE.search(config), BACKBONE.search(config)
    model = f"{objective[1] if objective else '?'} {backbone[2] or backbone[1] if backbone else '?'}"
    try:
        done = int(regular(run.path / METRICS).read_bytes().splitlines()[-1].split(b",")[1]) + 1
    except (OSError, IndexError, ValueError):  # before the first row, or cut within one
        done = 0
    done, planned = summary.get("epochs", done), EPOCHS.search(config)
    epochs = f"{done}/{planned[1]}" if planned else f"{done}"  # of a run by steps only the first
    # Accuracy, or else the first metric of the test; without a test the validation's, or the loss.
    metrics = summary.get("metrics", {})
    tested = [name for name in metrics if name.startswith("test/") and name not in ("test/ece", "test/loss")]
    ranked = ["test/top1", *tested, "val/top1", "val/knn", "val/loss", "train/loss"]
    result = next((f"{name} {metrics[name]:.4f}" for name in ranked if name in metrics), "")
    study = STUDY.search(config)
    written = datetime.fromtimestamp(max(file.st_mtime for file in run.files())).strftime("%Y-%m-%d %H:%M")
    known = str(run.path), status, model, epochs, result, f"{run.size / 1e6:,.1f}"
    return *known, study[1].strip("'\"") if study else "", written


def run_rm(arguments: Sequence[str]) -> int:
    """Remove, and say what that freed."""
    parser = StudyParser("python -m vitlab rm", "Remove runs. Nothing is removed if one of the folders is not a run.")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directories")
    only = "remove only checkpoints, of each run all but the last, which reports and commands read"
    parser.add_argument("--checkpoints", action="store_true", help=only)
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    options = parser.parse_args(arguments)

    if not options.runs:
        raise ValueError("rm needs run directories, like runs/vit_cifar10/seed-0. `python -m vitlab list` shows them.")
    directories = list({directory.resolve(): directory for directory in options.runs}.values())
    for directory in directories:
        if directory.is_symlink():
            raise ValueError(f"{directory} is a link; give the run itself, {directory.resolve()}.")
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no folder {directory}. `python -m vitlab list` shows the runs.")
        if config_file(directory).parent != directory or not (directory / ENVIRONMENT).is_file():
            raise FileNotFoundError(f"{directory} is not a run directory: it has no {ENVIRONMENT}.")
        check_idle(directory)
    freed = 0
    for directory in directories:
        run, files, what = RunDirectory(directory), None, ""
        if options.checkpoints:
            kept, _ = run.whole_checkpoint()
            # None where no checkpoint is whole, since others may have to serve.
            files = [] if kept is None else sorted(set(run.checkpoints.rglob("*.ckpt")) - {kept})
            what = f": {', '.join(str(file.relative_to(directory)) for file in files) or 'nothing'}"
        size = run.size if files is None else sum(file.stat().st_size for file in files)
        if not options.dry_run:
            place = directory.absolute()  # `.` cannot be removed
            with run_lock(place):
                for file in files or ():
                    file.absolute().unlink()
                if files is None:
                    shutil.rmtree(place)
            if files is None:
                with suppress(OSError):
                    place.parent.rmdir()
        print(f"{directory}{what}, {size / 1e6:,.1f} MB")
        freed += size
    print(f"{'Would free' if options.dry_run else 'Freed'} {freed / 1e6:,.1f} MB.")
    return 0


def run_verify(arguments: Sequence[str]) -> int:
    """Repeat a run; 0 if the repetition is equal to the bit, 1 if it differs."""
    parser = StudyParser("python -m vitlab verify RUN", "Repeat a finished run, and compare the repetition with it.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--out", type=Path, help="keep the repetition in this folder, which must be new")
    options = parser.parse_args(arguments)
    run = RunDirectory(options.run)
    if not run.is_finished:
        raise ValueError(f"{run.path} is not a finished run: it has no {SUMMARY}. Give a run directory, or finish it.")
    if not run.last_checkpoint.is_file():
        from vitlab.deployment.load import NO_CHECKPOINT

        last = run.last_checkpoint.relative_to(run.path)
        raise ValueError(f"{run.path} has no {last} to compare a repetition with: {NO_CHECKPOINT}")
    if options.out is not None and options.out.exists():
        raise ValueError(f"--out {options.out} exists; give a new folder for the repetition.")
    root = root_of_images(options.run)
    with TemporaryDirectory(prefix="vitlab-verify-") as temporary:
        repeated = repeat(options.run, options.out or Path(temporary), root)
        lines = conclusion(options.run, repeated)
    same = "Equal to the bit: weights, averages, optimizer, random generators, metrics and predictions."
    print("\n".join(lines or [same]))
    return 1 if lines else 0


def root_of_images(directory: Path) -> Config:
    """Return the setting of where a run's images are, wherever the command is given."""
    from vitlab.commands.options import experiment_of
    from vitlab.experiment.same_images import other_images

    experiment = experiment_of(["--config", str(directory)])
    if others := other_images(directory, experiment.data):
        raise ValueError(f"{directory} cannot be repeated: its images are others now ({'; '.join(others)}).")
    root = experiment.config["data"]["init_args"].get("root")
    return {} if root is None else {"data": {"init_args": {"root": root}}}


def repeat(directory: Path, root: Path, data: Config) -> Path:
    """Train a run again below another root, and return the new run directory."""
    command = [sys.executable, "-m", "vitlab", "fit", "--config", str(directory / CONFIG)]
    command += ["--run.root", str(root), "--run.name", "repeated", "--run.wandb.mode", "disabled"]
    command += ["--run.checkpoint.pause_after", "null"]
    command += [f"--{short(key)}={value}" for key, value in flatten(data).items()]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise ValueError(f"{directory} cannot be repeated:\n{last}")
    (repeated,) = (root / "repeated").iterdir()
    return repeated


def conclusion(first: Path, second: Path) -> list[str]:
    """Return in sentences where two runs differ, and what differs around them; nothing if they are equal to the bit."""
    from vitlab.runs.exactness import TIMINGS, disagreements, inexact

    places = disagreements(first, second)
    if not places:
        return []
    environments = [RunDirectory(run).environment for run in (first, second)]
    around = inexact(*environments) or [f"nothing that {ENVIRONMENT} records"]
    one, other = (RunDirectory(run).metrics for run in (first, second))
    differing = [name for name in one if name in other and one[name] != other[name] and name not in TIMINGS]
    results = [f"{name} {one[name]:.4g} and {other[name]:.4g}" for name in differing]
    return [
        f"Different: {'; '.join(results) or 'the metrics are equal'}.",
        f"First difference: {places[0]}" + (f", and {len(places) - 1} more." if len(places) > 1 else "."),
        f"Environment: {'; '.join(around)}.",
    ]
