"""Runs that start from runs: `init_from: experiments/mae_digits.yaml model.mask_ratio=0.5` trains that first.

Where a setting that takes weights names an experiment, its file and then settings, `fit` trains that experiment with
this run's seed (or with the one of a setting `seed_everything=0`), below `before/` in the same root, and takes its last
weights. Both are continued like any run. Runs that name the same experiment, settings and seed share it. The
configuration keeps eight digits of a hash of the file, `experiments/mae_digits.yaml@1f0c52ab`, so that a run from
another version of it is another run.

Also where a configuration puts its run, and runs that branch off a state of another.
"""

import hashlib
import re
import shutil
from pathlib import Path
from typing import NamedTuple, Self

import yaml

from vitlab.atomic_files import write_text
from vitlab.config import Config, SafeLoader, dump_yaml, load_yaml
from vitlab.runs.directory import CONFIG, DATA, ENVIRONMENT, METRICS, RunDirectory

BEFORE = "before"  # folder of the runs that others start from
TEACHER = "model.init_args.teacher.weights"
TAKEN_FROM = ("model.init_args.init_from", TEACHER)  # settings that may name an experiment
PATTERN = re.compile(r"(?P<file>\S+\.ya?ml)(?:@(?P<digest>[0-9a-f]{8}))?(?P<settings>(?:\s+[\w.]+=\S+)*)\s*")


class Source(NamedTuple):
    """An experiment whose weights a setting asks for."""

    file: Path
    settings: tuple[str, ...]
    digest: str | None  # of the file, if the setting has it

    @classmethod
    def parse(cls, value: str | None) -> Self | None:
        """Return the experiment that a setting names; None if it names a file of weights or a run."""
        match = PATTERN.fullmatch(value or "")
        return match and cls(Path(match["file"]), tuple(match["settings"].split()), match["digest"])

    def stamped(self) -> Self:
        """Return this with the file's digest."""
        content = yaml.safe_dump(load_yaml(self.file, SafeLoader))  # as ever: the digests of runs have it
        return self._replace(digest=hashlib.blake2b(content.encode(), digest_size=4).hexdigest())

    def __str__(self) -> str:
        return " ".join([f"{self.file}@{self.digest}", *self.settings])

    def place(self, root: Path, seed: int) -> Config:
        """Return the settings by which its run is of this seed, and lies below this root."""
        chosen = hashlib.blake2b(str(self).encode(), digest_size=4).hexdigest()
        below = root if root.name == BEFORE else root / BEFORE  # which runs before it share
        run = {"root": str(below), "name": f"{self.file.stem}-{chosen}"}
        return {"seed_everything": seed, "run": run}

    @property
    def has_seed(self) -> bool:
        """Whether a setting gives it a seed, the same for all runs that start from it."""
        return any(setting.startswith("seed_everything=") for setting in self.settings)


def directory_of(config: Config) -> Path:
    """Return where a configuration puts its run: `root/name/seed-<seed>`."""
    run, path = config["run"], Path(config["run"]["name"])
    if path.is_absolute() or ".." in path.parts or not run["name"].strip(" .") or not run["name"].isprintable():
        raise ValueError(f"run.name is {run['name']!r}; give a name like vit_cifar10, and a folder as --run.root.")
    return Path(run["root"]) / path / f"seed-{config['seed_everything']}"


def branch_off(trunk: Path, step: int, directory: Path, config: Config) -> None:
    """Make a run directory whose run continues after `step` steps of another; leave a run alone that has begun."""
    from vitlab.runs.checkpoints import kept_state  # here, because studies' files import this and start at once

    if (directory / CONFIG).is_file():
        return
    own, kept = RunDirectory(directory), RunDirectory(trunk).checkpoints
    state = kept_state(kept, step)
    if not state.is_file():
        raise FileNotFoundError(f"{state} does not exist. Train {trunk} with --run.checkpoint.keep [{step}].")
    own.checkpoints.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, DATA, ENVIRONMENT):
        shutil.copyfile(trunk / name, directory / name)
    shutil.copyfile(state, own.last_checkpoint)
    if (best := kept_state(kept, step, "-best")).is_file():
        shutil.copyfile(best, own.checkpoints / "best.ckpt")
    write_text(directory / CONFIG, dump_yaml(config))
