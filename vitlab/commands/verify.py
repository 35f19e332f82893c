"""Repeat a finished run from its config.yaml, and say whether the repetition is the same run.

On the machine of the run, with its versions and number of threads, the repetition is equal to the bit. Another kind of
processor rounds differently: it sums in another order, and after some steps the weights differ. Whether the results
are still equal is tested on the run's test images.

A run that kept states (`run.checkpoint.keep: 5`) can be checked by a segment of its training, between two of them.
"""

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from vitlab.commands.options import StudyParser
from vitlab.config import Config, flatten, merge, short
from vitlab.experiment.chain import BEFORE
from vitlab.runs.directory import CONFIG, ENVIRONMENT, PREDICTIONS, SUMMARY, RunDirectory


def run(arguments: Sequence[str]) -> int:
    """Repeat a run; 0 if the repetition is equal, to the bit or within the interval, 1 if it differs."""
    parser = StudyParser("python -m vitlab verify RUN", "Repeat a finished run, and compare the repetition with it.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("--out", type=Path, help="keep the repetition in this folder, which must be new")
    parser.add_argument(
        "--segment",
        metavar="STEP",
        help="repeat the training from this kept state to the next alone; auto: a random one",
    )
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
        if options.segment is not None:
            begin, end = chosen_segment(options.run, options.segment)
            places = repeat_segment(options.run, options.out or Path(temporary), begin, end, root)
            segment = f"after step {begin}" if end is None else f"from step {begin} to {end}"
            more = f", and {len(places) - 1} more" if len(places) > 1 else ""
            same = f"Equal to the bit {segment}: weights, averages, optimizer and random generators."
            print(f"Different {segment}: {places[0]}{more}." if places else same)
            return 1 if places else 0
        repeated = repeat(options.run, options.out or Path(temporary), root)
        lines, equal = conclusion(options.run, repeated)
        print("\n".join(lines))
        return 0 if equal else 1


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


def chosen_segment(directory: Path, word: str) -> tuple[int, int | None]:
    """Return the first and the last step of a segment between kept states; None: the end of the training.

    Args:
        word: The first step, or `auto`.

    Raises:
        ValueError: the run kept no states, or none after this step.
    """
    checkpoints = RunDirectory(directory).checkpoints
    kept = sorted(int(path.stem.partition("-")[2]) for path in checkpoints.glob("step-*[0-9].ckpt"))
    if not kept:
        raise ValueError(f"{directory} kept no states. Train it with --run.checkpoint.keep 5 to repeat fifths of it.")
    ends: dict[int, int | None] = dict(zip([0, *kept], [*kept, None], strict=True))
    if word == "auto":
        return random.choice(list(ends.items()))
    if not word.isdecimal() or int(word) not in ends:
        steps = ", ".join(map(str, ends))
        raise ValueError(f"--segment {word}: {directory} can be repeated from the steps {steps}; give one, or auto.")
    return int(word), ends[int(word)]


def repeat_segment(directory: Path, root: Path, begin: int, end: int | None, data: Config) -> list[str]:
    """Train a segment of a run again below another root, and return in what its last state differs."""
    from vitlab.experiment.branch import branch_off
    from vitlab.runs.checkpoints import kept_state
    from vitlab.runs.exactness import unequal_states

    run, repeated = RunDirectory(directory), RunDirectory(root / "repeated" / directory.resolve().name)
    settings: Config = {"root": str(root), "name": "repeated", "wandb": {"mode": "disabled"}, "test": False}
    settings["checkpoint"] = {"keep": [] if end is None else [end], "pause_after": None}
    config = merge(run.config, {"run": settings, **data})
    file = root / "segment.yaml"
    root.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    above = directory.resolve().parents
    top = above[min(len(Path(run.config["run"]["name"]).parts), len(above) - 1)]  # as in `Experiment.before`
    if (before := top / BEFORE).is_dir():  # which a continued run reads no weights of
        (root / BEFORE).symlink_to(before, target_is_directory=True)
    if begin > 0:
        branch_off(directory, begin, repeated.path, config)
    reached = repeated.last_checkpoint if end is None else kept_state(repeated.checkpoints, end)
    with (root / "log.txt").open("w+", encoding="utf-8") as log:
        command = [sys.executable, "-m", "vitlab", "fit", "--config", str(file)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while process.poll() is None and (end is None or not reached.is_file()):
                time.sleep(0.05)
        finally:  # also when this process is told to end
            failed = process.poll() is not None and (process.returncode or not reached.is_file())
            process.terminate()
            process.wait()
        if failed:
            log.seek(0)
            last = "\n".join(log.read().strip().splitlines()[-5:])
            raise ValueError(f"{directory} cannot be repeated from step {begin}:\n{last}")
    return unequal_states(run.last_checkpoint if end is None else kept_state(run.checkpoints, end), reached)


def conclusion(first: Path, second: Path) -> tuple[list[str], bool]:
    """Return in sentences where two runs differ first, and what differs around them; and whether they are equal.

    They are if they are so to the bit, or their accuracies within the 95 % interval over test images.
    """
    from vitlab.runs.exactness import TIMINGS, disagreements
    from vitlab.runs.resume import inexact

    places = disagreements(first, second)
    if not places:
        return ["Equal to the bit: weights, averages, optimizer, random generators, metrics and predictions."], True
    environments = [RunDirectory(run).environment for run in (first, second)]
    around = inexact(*environments) or [f"nothing that {ENVIRONMENT} records"]
    compared = accuracies(first, second)
    equal = compared is not None and compared[2] <= 0 <= compared[3]
    if compared is None:
        one, other = (RunDirectory(run).metrics for run in (first, second))
        differing = [name for name in one if name in other and one[name] != other[name] and name not in TIMINGS]
        results = [f"{name} {one[name]:.4g} and {other[name]:.4g}" for name in differing]
        shown = "; ".join(results) or "no metric in common"
    else:
        a, b, low, high = (100 * value for value in compared)
        shown = f"{a:.2f} and {b:.2f} % of the test images are right, {b - a:+.2f} points [{low:+.2f}, {high:+.2f}]"
    lines = [
        f"{'Equal within the interval' if equal else 'Different'}: {shown}.",
        f"First difference: {places[0]}" + (f", and {len(places) - 1} more." if len(places) > 1 else "."),
        f"Around it: {'; '.join(around)}.",
    ]
    return lines, equal


def accuracies(first: Path, second: Path) -> tuple[float, float, float, float] | None:
    """Return both accuracies, and the 95 % interval of the second minus the first; None without one class an image."""
    import numpy as np

    from vitlab.evaluation.predictions import correct

    runs = [RunDirectory(first), RunDirectory(second)]
    if not all((run.path / PREDICTIONS).is_file() for run in runs):
        return None
    one, other = (run.predictions for run in runs)
    if one.labels.ndim != 1 or one.labels.dtype.kind not in "iu" or list(one.images) != list(other.images):
        return None
    a, b = (correct(each.logits, each.labels).astype(float) for each in (one, other))
    half = 1.96 * float(np.std(b - a, ddof=1)) / len(a) ** 0.5
    gap = float((b - a).mean())
    return float(a.mean()), float(b.mean()), gap - half, gap + half
