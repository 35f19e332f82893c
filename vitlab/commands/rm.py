"""Remove runs, or of runs all checkpoints but the last; a run that is being written is refused."""

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from vitlab.commands.options import StudyParser
from vitlab.runs.directory import ENVIRONMENT, RunDirectory, config_file
from vitlab.runs.lock import check_idle, run_lock


def run(arguments: Sequence[str]) -> int:
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
        _check(directory)
    freed = 0
    for directory in directories:
        files = _spare_checkpoints(directory) if options.checkpoints else None
        size = RunDirectory(directory).size if files is None else sum(file.stat().st_size for file in files)
        if not options.dry_run:
            _remove(directory, files)
        what = (
            "" if files is None else f": {', '.join(str(file.relative_to(directory)) for file in files) or 'nothing'}"
        )
        print(f"{directory}{what}, {size / 1e6:,.1f} MB")
        freed += size
    print(f"{'Would free' if options.dry_run else 'Freed'} {freed / 1e6:,.1f} MB.")
    return 0


def _check(directory: Path) -> None:
    """Raise an error for a folder that is not a run directory, or that is in use."""
    if directory.is_symlink():
        raise ValueError(f"{directory} is a link; give the run itself, {directory.resolve()}.")
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no folder {directory}. `python -m vitlab list` shows the runs.")
    if config_file(directory).parent != directory or not (directory / ENVIRONMENT).is_file():
        raise FileNotFoundError(f"{directory} is not a run directory: it has no {ENVIRONMENT}, which every run writes.")
    check_idle(directory)


def _spare_checkpoints(directory: Path) -> list[Path]:
    """Return all checkpoints but the last whole one; none if no checkpoint is whole, since others may have to serve."""
    run = RunDirectory(directory)
    kept, _ = run.whole_checkpoint()
    return [] if kept is None else sorted(set(run.checkpoints.rglob("*.ckpt")) - {kept})


def _remove(directory: Path, files: Sequence[Path] | None) -> None:
    """Remove some files of a run, or for None all of it, and the folder above if that leaves it empty."""
    directory = directory.absolute()  # `.` cannot be removed
    with run_lock(directory):
        for file in files or ():
            file.unlink()
        if files is None:
            shutil.rmtree(directory)
    if files is None:
        with suppress(OSError):
            directory.parent.rmdir()
