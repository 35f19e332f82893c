"""Repeat a finished run from its config.yaml, and say whether the repetition is the same run.

On the machine of the run, with its versions and number of threads, the repetition is equal to the bit. Another kind of
processor rounds differently: it sums in another order, and after some steps the weights differ.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from vitlab.commands.options import StudyParser
from vitlab.config import Config, flatten, short
from vitlab.runs.directory import CONFIG, ENVIRONMENT, SUMMARY, RunDirectory


def run(arguments: Sequence[str]) -> int:
    """Repeat a run; 0 if the repetition is equal to the bit, 1 if it differs."""
    parser = StudyParser("python -m vitlab verify RUN", "Repeat a finished run, and compare the repetition with it.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--out", type=Path, help="keep the repetition in this folder, which must be new")
    options = parser.parse_args(arguments)
    run = RunDirectory(options.run)
    if not run.is_finished:
        raise ValueError(f"{run.path} is not a finished run: it has no {SUMMARY}. Give a run directory, or finish it.")
    if not run.last_checkpoint.is_file():
        from vitlab.deployment.load import no_checkpoint

        last = run.last_checkpoint.relative_to(run.path)
        raise ValueError(f"{run.path} has no {last} to compare a repetition with: {no_checkpoint(run)}")
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
    """Return the setting of where a run's images are, wherever the command is given.

    Raises:
        ValueError: they are others now, so no repetition could be equal.
    """
    from vitlab.commands.options import experiment_of
    from vitlab.experiment.same_images import other_images

    experiment = experiment_of(["--config", str(directory)])
    if others := other_images(directory, experiment.data):
        raise ValueError(
            f"{directory} cannot be repeated: its images are others now ({'; '.join(others)}).\n"
            "Restore the images that it was trained on."
        )
    root = experiment.config["data"]["init_args"].get("root")
    return {} if root is None else {"data": {"init_args": {"root": root}}}


def repeat(directory: Path, root: Path, data: Config) -> Path:
    """Train a run again below another root, and return the new run directory.

    Raises:
        ValueError: the training fails; with the last lines that it wrote.
    """
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
    from vitlab.runs.exactness import TIMINGS, disagreements
    from vitlab.runs.resume import inexact

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
