"""`verdict`: what a study concluded, as an exit status, so that a script can ask whether a gain is noise."""

from collections.abc import Sequence
from pathlib import Path

from referee.answer import STATUS, answered

from vitlab.atomic_files import read_json
from vitlab.commands.options import StudyParser


def run(arguments: Sequence[str]) -> int:
    """Print the verdict of a study or of two of its variants, and return its status."""
    statuses = ", ".join(f"{status}: {verdict}" for verdict, status in STATUS.items())
    parser = StudyParser("python -m vitlab verdict", f"What a reported study concluded. Exit status: {statuses}.")
    parser.add_argument("alone", nargs="?", type=Path, metavar="STUDY", help="short for --study STUDY")
    parser.add_argument("--study", type=Path, help="its folder, like runs/quickstart, or its YAML file")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs, for a YAML file [runs]")
    parser.add_argument("--better", metavar="VARIANT", help="is it better … [the one with the best mean]")
    parser.add_argument("--than", metavar="VARIANT", help="… than this one? [than all others]")
    options = parser.parse_args(arguments)
    study = options.study or options.alone
    if study is None:
        raise ValueError("verdict takes a study, its folder or its YAML file. For example: verdict runs/quickstart")
    path = _folder(study, options.root) / "verdict.json"
    if not path.is_file():
        if places := ", ".join(str(each.parent) for each in sorted(path.parent.glob("*/verdict.json"))):
            raise ValueError(f"{study} has a verdict for each place of its axis; give one of {places}.")
        raise FileNotFoundError(f"{path} does not exist. `python -m vitlab compare` writes it into the study's folder.")
    record = read_json(path)
    lines, status = answered(record, options.better, options.than, f" of {study}")
    print(*lines, sep="\n")
    return status


def _folder(study: Path, root: Path) -> Path:
    """Return the folder of a study that is named by it, or by its YAML file."""
    if study.suffix not in (".yaml", ".yml"):
        return study
    from vitlab.studies.file.study import read_study

    return read_study(study).folder(root)
