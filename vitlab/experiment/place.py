"""Where a configuration puts its run; a run directory that was moved has another root and name."""

import os
from pathlib import Path

from vitlab.config import Config

LONGEST = 255  # bytes of a folder's name


def directory_of(config: Config) -> Path:
    """Return where a configuration puts its run: `root/name/seed-<seed>`.

    Raises:
        ValueError: a name that leads out of the root, or that no folder should have.
    """
    run = config["run"]
    name, path = run["name"], Path(run["name"])
    odd = any(part.startswith("-") or len(os.fsencode(part)) > LONGEST for part in name.split("/"))
    if odd or not name.strip() or not name.isprintable():
        raise ValueError(f"run.name is {name[:40]!r}, as no folder should be called. Give one like vit_cifar10.")
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(
            f"run.name is {name!r}, which leads out of run.root ({run['root']}).\n"
            "Give a plain name, and another place as --run.root FOLDER."
        )
    return Path(run["root"]) / path / f"seed-{config['seed_everything']}"


def placed(config: Config, directory: Path) -> Config:
    """Return a run's configuration with the root and name that lead to its present directory."""
    if directory.absolute().name != f"seed-{config['seed_everything']}":
        return config  # copied to a folder of another form: the path alone leads there
    name, root = directory.absolute().parent.name, directory.absolute().parent.parent
    if not directory.is_absolute() and root.is_relative_to(Path.cwd()):
        root = root.relative_to(Path.cwd())
    return {**config, "run": {**config["run"], "root": str(root), "name": name}}
