"""`verdict`: what a study concluded, as an exit status, so that a script can ask whether a gain is noise."""

from collections.abc import Sequence
from pathlib import Path

from vitlab.atomic_files import read_json
from vitlab.commands.options import StudyParser

STATUS = {"better": 0, "no winner yet": 1, "equal": 3, "not comparable": 4, "worse": 5}  # 2 is a user's mistake


def run(arguments: Sequence[str]) -> int:
    """Print the verdict of a study or of two of its variants, and return its status."""
    statuses = ", ".join(f"{status}: {verdict}" for verdict, status in STATUS.items())
    parser = StudyParser("python -m vitlab verdict STUDY", f"What a reported study concluded. Exit status: {statuses}.")
    parser.add_argument("--study", type=Path, help="its folder, like runs/quickstart, or its YAML file")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of all runs, for a YAML file [runs]")
    parser.add_argument("--better", metavar="VARIANT", help="is it better … [the one with the best mean]")
    parser.add_argument("--than", metavar="VARIANT", help="… than this one? [than all others]")
    alone = arguments and not arguments[0].startswith("-")  # verdict runs/quickstart
    options = parser.parse_args(["--study", *arguments] if alone else arguments)
    if options.study is None:
        raise ValueError("verdict takes a study, its folder or its YAML file. For example: verdict runs/quickstart")
    path = _folder(options.study, options.root) / "verdict.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. `python -m vitlab compare` writes it into the study's folder.")
    record = read_json(path)
    print(record["headline"])
    if options.better is None and options.than is None:
        return STATUS[record["verdict"]]
    names = [variant["variant"] for variant in record["variants"]]
    for name in (options.better, options.than):
        if name is not None and name not in names:
            raise ValueError(f"{name!r} is no variant with finished runs of {options.study}: {', '.join(names)}.")
    asked, other = options.better or names[0], options.than
    if asked == other:
        raise ValueError(f"--better {asked} --than {other}: name two different variants of {', '.join(names)}.")
    found = [
        "worse" if pair["verdict"] == "better" and pair["worse"] == asked else pair["verdict"]
        for pair in record["pairs"]
        if asked in (pair["better"], pair["worse"]) and other in (None, pair["better"], pair["worse"])
    ]
    verdict = "not comparable" if record["verdict"] == "not comparable" else max(found, key=_doubt)
    print(f"{asked} against {other or 'all others'}: {verdict}.")
    return STATUS[verdict]


def _folder(study: Path, root: Path) -> Path:
    """Return the folder of a study that is named by it, or by its YAML file."""
    if study.suffix not in (".yaml", ".yml"):
        return study
    from vitlab.studies.study import read_study

    return read_study(study).folder(root)


def _doubt(verdict: str) -> int:
    """Order verdicts: against several variants, the least favorable one counts."""
    return ["better", "equal", "no winner yet", "worse"].index(verdict)
