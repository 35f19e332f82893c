"""`init` and `schema`: list what vitlab ships, or copy some to change it; write what an editor checks YAML with."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from vitlab.commands.options import StudyParser
from vitlab.config import SHIPPED, load_yaml, locate, shipped


def run_init(arguments: Sequence[str]) -> int:
    """Copy experiments and studies, and print the commands that run them; list all where none is named."""
    parser = StudyParser(
        prog="python -m vitlab init FOLDER NAME …",
        description="Copy experiments and studies that vitlab ships into a folder, to change them; without names, "
        "list them. A study is copied with the files that it names.",
    )
    parser.add_argument("folder", nargs="?", type=Path, help="where the copies go, like mine/")
    parser.add_argument("names", nargs="*", metavar="NAME", help="like vit_cifar10 or quickstart")
    options = parser.parse_args(arguments)
    if not options.names:
        for name, path in shipped().items():
            print(f"{name:<36} {path.read_text(encoding='utf-8').partition(chr(10))[0].removeprefix('# ')}")
        return 0
    for name in options.names:
        file = locate(name)
        is_study = not {"variants", "factors", "like"}.isdisjoint(load_yaml(file))
        files = [file]
        if is_study:
            from vitlab.studies.file.study import read_study

            study = read_study(file)
            files = [study.path, study.base, *study.files.values(), *filter(None, [study.like])]
        for source in files:
            target = options.folder / _place(source)
            if target.exists() and target.read_bytes() != source.read_bytes():
                raise ValueError(f"{target} exists, and differs from what vitlab ships. Give another folder.")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        command = "compare" if is_study else "fit"
        print(f"python -m vitlab {command} {options.folder / _place(file)}")
    return 0


def run_schema(arguments: Sequence[str]) -> int:
    """Write both schemas into a folder."""
    about = "JSON Schemas of experiments and studies: an editor completes and checks YAML files with them."
    parser = StudyParser("python -m vitlab schema FOLDER", about)
    parser.add_argument("folder", type=Path, help="where experiment.schema.json and study.schema.json go")
    folder = parser.parse_args(arguments).folder

    from vitlab.commands.schema import NAMES, experiment_schema, study_schema

    folder.mkdir(parents=True, exist_ok=True)
    for name, schema in zip(NAMES, (experiment_schema(), study_schema()), strict=True):
        (folder / name).write_text(json.dumps(schema, indent=1) + "\n", encoding="utf-8")
        print(folder / name)
    return 0


def _place(file: Path) -> Path:
    """Return where a file lies among the shipped ones, so that copies find each other as those do."""
    file = file.resolve()
    return file.relative_to(SHIPPED) if file.is_relative_to(SHIPPED) else Path(file.name)
