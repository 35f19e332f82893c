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

from vitlab.atomic_files import flaw, regular
from vitlab.commands.options import StudyParser, experiment_of
from vitlab.config import Config, dump_yaml, merge
from vitlab.runs.directory import CONFIG, ENVIRONMENT, METRICS, SUMMARY, RunDirectory, config_file, run_directories
from vitlab.runs.lock import check_idle, run_lock

COLUMNS = ("run", "status", "model", "epochs", "result", "MB", "written")

# `fit` writes config.yaml, so each key has its place.
OBJECTIVE = re.compile(r"^model:\n  class_path: (?:\S+\.)?(\w+)", re.MULTILINE)
BACKBONE = re.compile(
    r"^    backbone:\n      class_path: (?:\S+\.)?(\w+)(?:\n      init_args:\n(?:        .*\n)*?        name: (\S+))?",
    re.MULTILINE,
)
EPOCHS = re.compile(r"^  max_epochs: (\d+)", re.MULTILINE)


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
    rows = [COLUMNS]
    for run in runs:
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
        written = datetime.fromtimestamp(max(file.st_mtime for file in run.files())).strftime("%Y-%m-%d %H:%M")
        rows.append((str(run.path), status, model, epochs, result, f"{run.size / 1e6:,.1f}", written))
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


def run_rm(arguments: Sequence[str]) -> int:
    """Remove, and say what that freed."""
    parser = StudyParser("python -m vitlab rm", "Remove runs. Nothing is removed if one of the folders is not a run.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, like runs/x/seed-0")
    only = "remove only checkpoints, of each run all but the last, which reports and commands read"
    parser.add_argument("--checkpoints", action="store_true", help=only)
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed")
    options = parser.parse_args(arguments)

    directories = list({directory.resolve(): directory for directory in options.runs}.values())
    for directory in directories:
        if directory.is_symlink():
            raise ValueError(f"{directory} is a link; give the run itself, {directory.resolve()}.")
        if config_file(directory).parent != directory or not (directory / ENVIRONMENT).is_file():
            missing = f"{directory} is not a run directory: it has no {ENVIRONMENT}."
            raise FileNotFoundError(f"{missing} `python -m vitlab list` shows the runs.")
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
    run = RunDirectory(parser.parse_args(arguments).run)
    if not run.is_finished:
        raise ValueError(f"{run.path} is not a finished run: it has no {SUMMARY}. Give a run directory, or finish it.")
    if not run.last_checkpoint.is_file():
        from vitlab.deployment.load import NO_CHECKPOINT

        last = run.last_checkpoint.relative_to(run.path)
        raise ValueError(f"{run.path} has no {last} to compare a repetition with: {NO_CHECKPOINT}")
    if wrong := flaw(run.last_checkpoint):
        raise ValueError(f"{run.last_checkpoint} is damaged ({wrong}), so nothing can be compared with it.")
    with TemporaryDirectory(prefix="vitlab-verify-") as root:
        file = Path(root, "repeated.yaml")
        file.write_text(dump_yaml(repetition(run.path, root)), encoding="utf-8")
        command = [sys.executable, "-m", "vitlab", "fit", "--config", str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            last_lines = "\n".join(done.stdout.strip().splitlines()[-5:])
            raise ValueError(f"{run.path} cannot be repeated:\n{last_lines}")
        (repeated,) = Path(root, "repeated").iterdir()
        lines = conclusion(run.path, repeated)
    same = "Equal to the bit: weights, averages, optimizer, random generators, metrics and predictions."
    print("\n".join(lines or [same]))
    return 1 if lines else 0


def repetition(directory: Path, root: str) -> Config:
    """Return the configuration of a run on the same images, wherever they are, as `root/repeated`; it never pauses."""
    from vitlab.experiment.same_images import other_images

    experiment = experiment_of(["--config", str(directory)])
    if others := other_images(directory, experiment.data):
        raise ValueError(f"{directory} cannot be repeated: its images have changed ({'; '.join(others)}).")
    elsewhere = {"root": root, "name": "repeated", "wandb": {"mode": "disabled"}, "checkpoint": {"pause_after": None}}
    return merge(experiment.config, {"run": elsewhere})


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
