"""Which run a file is: its variant and seed, from its path where its columns do not say them."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from referee.outcomes import NAMES

# seed-3, run_2, vit-seed3, 7; a number without a word belongs to the name: resnet_50.
NUMBERED = re.compile(r"(?:(.*?)[-_. ]?(?:seed|run|trial)[-_. =]?)?(\d+)", re.IGNORECASE)
NO_SEED = "1"
LOOKS = ".looks.json"  # ends the name of a registration, which is not a result
Files = dict[Path, dict[str, str] | None]  # with the names that a template reads from the path; None: without one


def expanded(places: Iterable[str | Path]) -> Files:
    """Return the files that the places mean, in the order of their names.

    Raises:
        FileNotFoundError: a place with no file.
    """
    found: Files = {}
    for place in map(str, places):
        if "{" in place:
            files = _matching(place)
        elif Path(place).is_dir():
            inside = (file for file in Path(place).rglob("*") if file.is_file())
            files = dict.fromkeys(f for f in inside if not (f.name.startswith(".") or f.name.endswith(LOOKS)))
        else:
            files = dict.fromkeys([Path(place)] if Path(place).is_file() else [])
        if not files:
            raise FileNotFoundError(
                f"{place}: there is no such file. Give files, folders, or logs/{{variant}}/{{seed}}.txt."
            )
        found |= {file: names for file, names in files.items() if file not in found}
    return dict(sorted(found.items(), key=lambda each: _by_number(each[0])))


def _by_number(file: Path) -> tuple[list[list[str | int]], Path]:
    """Return a key that sorts files by their names, and numbers in these by value."""
    parts = [re.split(r"(\d+)", part) for part in file.parts]  # text and numbers in turn
    return [[int(text) if i % 2 else text for i, text in enumerate(part)] for part in parts], file


def _matching(template: str) -> Files:
    """Return the files of a template like logs/{variant}/{seed}.txt, in which * stands for anything."""
    parts = re.split(r"(\{[^\W\d]\w*\}|\*)", os.path.normpath(template))
    glob = "".join("*" if i % 2 else part for i, part in enumerate(parts))
    root = Path(glob.partition("*")[0] + "x").parent  # of what begins with the fixed text
    expression = "".join(
        "[^/]*"
        if part == "*"
        else re.escape(part)
        if i % 2 == 0
        # A name that comes twice is the same text.
        else f"(?P={part[1:-1]})"
        if part in parts[:i]
        else f"(?P<{part[1:-1]}>[^/]+)"
        for i, part in enumerate(parts)
    )
    found: Files = {}
    for file in root.rglob("*"):
        if file.is_file() and (match := re.fullmatch(expression, str(file))):
            found[file] = match.groupdict()
    return found


def named_by_path(
    frames: Mapping[Path, pd.DataFrame], files: Files, columns: Mapping[str, str]
) -> tuple[list[pd.DataFrame], list[str]]:
    """Return the tables with columns for what their paths say, and a note on what was taken from them."""
    named, notes = [], []
    for file, frame in frames.items():
        names = files[file]
        if names is None:
            names = dict(zip(("variant", "seed"), run_of(file), strict=True))
            known = {kind for kind in names if kind in columns or any(name in frame for name in NAMES[kind])}
            names = {kind: name for kind, name in names.items() if kind not in known}
            read = {kind: name for kind, name in names.items() if (kind, name) != ("seed", NO_SEED)}
            if read:
                notes.append(f"{' and '.join(read)}: from the paths, like {', '.join(read.values())} of {file}.")
            elif names:
                notes.append("neither a column nor a path names seeds, so each variant has one run a file.")
        named.append(frame.assign(**names))
    return named, notes[:1]


def run_of(file: Path) -> tuple[str, str]:
    """Return variant and seed of A/seed-3/any.csv, A/3.csv, A-seed3.csv, and A.csv."""
    folder, stem = file.parent.name, re.sub(r"(\.[a-z]+)+$", "", file.name, flags=re.IGNORECASE)  # lr0.1.csv.gz: lr0.1
    if of_folder := NUMBERED.fullmatch(folder):
        return of_folder[1] or file.parent.parent.name, of_folder[2]
    if of_file := NUMBERED.fullmatch(stem):
        return of_file[1] or folder, of_file[2]
    return stem, NO_SEED
