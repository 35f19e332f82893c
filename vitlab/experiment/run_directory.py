"""A run directory may be moved: commands find a run by its path, not by the name and root in its configuration."""

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from vitlab.atomic_files import read_json
from vitlab.config import Config

LONGEST = 255  # bytes of a folder's name
CONFIG, MARK = "config.yaml", "environment.json"  # only a run writes the second next to the first


def config_file(path: str | Path) -> Path:
    """Return the configuration that `--config` means: a YAML file, or that of a run directory.

    Raises:
        FileNotFoundError: a folder that is no run; the message names the runs below it.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if (path / CONFIG).is_file():
        return path / CONFIG
    runs = sorted(str(mark.parent) for depth in ("*", "*/*") for mark in path.glob(f"{depth}/{MARK}"))
    some = ", ".join(runs[:4]) + (f" and {len(runs) - 4} more" if len(runs) > 4 else "")
    raise FileNotFoundError(
        f"{path} is not a run directory: it has no {CONFIG}. "
        + (f"Runs below it: {some}." if runs else "Give a YAML file or a run directory like runs/vit_cifar10/seed-0.")
    )


def run_of(files: Sequence[Path]) -> Path | None:
    """Return the directory of the run whose own configuration is among these files; the last such."""
    runs = [file.parent for file in files if file.name == CONFIG and (file.parent / MARK).is_file()]
    return runs[-1] if runs else None


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


def shortfalls(directory: Path) -> list[str]:
    """Return why a run directory has no valid result, as listed in its summary.json; empty for a complete run."""
    summary = directory / "summary.json"
    if not summary.is_file():
        return ["not finished"]
    return list(read_json(summary).get("partial") or [])
