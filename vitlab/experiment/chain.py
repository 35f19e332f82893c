"""Runs that start from runs: `init_from: experiments/mae_digits.yaml model.mask_ratio=0.5` trains that first.

Where a setting that takes weights names an experiment, its file and then settings, `fit` trains that experiment with
this run's seed (or with the one of a setting `seed_everything=0`), below `before/` in the same root, and takes its last
weights. Both are continued like any run. Runs that name the same experiment, settings and seed share it. The
configuration keeps eight digits of a hash of the file, `experiments/mae_digits.yaml@1f0c52ab`, so that a run from
another version of it is another run.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple, Self

import yaml

from vitlab.config import Config, SafeLoader, load_yaml

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
        """Return this with the file's digest.

        Raises:
            FileNotFoundError: no such file.
        """
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
