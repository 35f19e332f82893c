"""Where a configuration puts its run; a run directory that was moved has another root and name."""

import os
import unicodedata
from pathlib import Path

from vitlab.config import Config

LONGEST = 255  # bytes of a folder's name


def directory_of(config: Config) -> Path:
    """Return where a configuration puts its run: `root/name/seed-<seed>`.

    Raises:
        ValueError: a name that leads out of the root, or that no folder should have.
    """
    run = config["run"]
    name = Path(run["name"])
    if fault := _fault(run["name"]):
        raise ValueError(f"run.name {fault}: {run['name'][:40]!r}. Give a plain name, like vit_cifar10.")
    if name.is_absolute() or ".." in name.parts or not name.parts:
        raise ValueError(
            f"run.name is {run['name']!r}, which leads out of run.root ({run['root']}).\n"
            "Give a plain name, and another place as --run.root FOLDER."
        )
    return Path(run["root"]) / name / f"seed-{config['seed_everything']}"


def _fault(name: str) -> str | None:
    """Return what is wrong with a name on any file system and in any shell; letters of all languages are fine."""
    if not name.strip():
        return "is empty"
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
        return "has a line break or another control character"
    if any(part.startswith("-") for part in name.split("/")):
        return "begins with a dash, as options of a command do"
    if any(len(os.fsencode(part)) > LONGEST for part in name.split("/")):
        return f"is longer than the {LONGEST} bytes that a file system allows"
    return None


def placed(config: Config, directory: Path) -> Config:
    """Return a run's configuration with the root and name that lead to its present directory."""
    if directory.absolute().name != f"seed-{config['seed_everything']}":
        return config  # copied to a folder of another form: the path alone leads there
    name, root = directory.absolute().parent.name, directory.absolute().parent.parent
    if not directory.is_absolute() and root.is_relative_to(Path.cwd()):
        root = root.relative_to(Path.cwd())
    return {**config, "run": {**config["run"], "root": str(root), "name": name}}
