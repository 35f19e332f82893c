"""Which run a file is: its variant and seed, from its path where its columns do not say them."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from referee.formats import counted, listed
from referee.outcomes import recognized

# seed-3, run_2, vit-seed3, 7; a number without a word belongs to the name: resnet_50.
NUMBERED = re.compile(r"(?:(.*?)[-_. ]?(?:seed|run|trial)[-_. =]?)?(\d+)", re.IGNORECASE)
LOOKS = ".looks.json"  # ends the name of a registration, which is not a result
SYSTEM = {"@eadir", "$recycle.bin", "system volume information", "#recycle", "__macosx", "thumbs.db", "desktop.ini"}
Files = dict[Path, dict[str, str] | None]  # with the names that a template reads from the path; None: without one


def expanded(places: Iterable[str | Path], is_result: Callable[[Path], bool]) -> tuple[Files, list[str]]:
    """Return the files that the places mean, in the order of their names, and notes on those that are left out.

    Of folders and templates, these are what is hidden, what a system keeps there, and what is no result.

    Raises:
        FileNotFoundError: a place with no file.
    """
    found: Files = {}
    hidden, others = 0, []
    for place in map(here, places):
        path = Path(place)
        if path.name.lower() in SYSTEM:  # of a pattern of the shell
            hidden += 1
            continue
        if "{" not in place and not path.is_dir():
            files: Files = dict.fromkeys([path] if path.is_file() else [])
        else:
            root, inside = _matching(place) if "{" in place else (path, dict.fromkeys(path.rglob("*")))
            inside = {f: names for f, names in inside.items() if f.is_file() and not f.name.endswith(LOOKS)}
            parts = {f: [part.lower() for part in f.relative_to(root).parts] for f in inside}
            seen = [f for f in inside if not any(part[0] == "." or part in SYSTEM for part in parts[f])]
            files = {f: inside[f] for f in seen}
            hidden += len(inside) - len(files)
            others += [f.name for f in files if not is_result(f)]
            files = {f: names for f, names in files.items() if f.name not in others}
        if not files:
            there = f"no result there, but {listed(others)}" if others else "no such file"
            raise FileNotFoundError(
                f"{place}: there is {there}. Give files, folders, or logs/{{variant}}/{{seed}}.txt."
            )
        found |= {file: names for file, names in files.items() if file not in found}
    notes = [f"{counted(hidden, 'hidden or system file')} left out."] * bool(hidden)
    notes += [f"no results, and left out: {listed(others)}."] * bool(others)
    return dict(sorted(found.items(), key=lambda each: _by_number(each[0]))), notes


def here(place: str | Path) -> str:
    """Return a place with ~ and $NAME replaced, unless it is there as it is."""
    return str(place) if Path(place).exists() else os.path.expandvars(os.path.expanduser(place))


def _by_number(file: Path) -> tuple[list[list[str | int]], Path]:
    """Return a key that sorts files by their names, and numbers in these by value."""
    parts = [re.split(r"(\d+)", part) for part in file.parts]  # text and numbers in turn
    return [[int(text) if i % 2 else text for i, text in enumerate(part)] for part in parts], file


def _matching(template: str) -> tuple[Path, Files]:
    """Return the root and the files of a template like logs/{variant}/{seed}.txt, in which * stands for anything."""
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
    return root, found


def named_by_path(
    frames: Mapping[Path, pd.DataFrame], files: Files, columns: Mapping[str, str]
) -> tuple[list[pd.DataFrame], list[str]]:
    """Return the tables with columns for what their paths say, and a note on what was taken from them."""
    named, notes = [], []
    runs = _runs_of([file for file in frames if files[file] is None])
    seeded = any(seed for _, seed in runs.values()) or any(recognized(frame, "seed") for frame in frames.values())
    for file, frame in frames.items():
        names = files[file]
        if names is None:
            own = {kind for kind in ("variant", "seed") if kind in columns or recognized(frame, kind)}
            read = dict(zip(("variant", "seed"), runs[file], strict=True))
            read = {kind: name for kind, name in read.items() if name and kind not in own}
            if read:
                notes.append(f"{' and '.join(read)}: from the paths, like {', '.join(read.values())} of {file}.")
            names = ({"seed": "1"} if seeded and "seed" not in own else {}) | read
        named.append(frame.assign(**names))
    return named, notes[:1]


def _runs_of(files: Sequence[Path]) -> dict[Path, tuple[str, str]]:
    """Return variant and seed of each file; of files for which they are the same, by the folders that differ."""
    runs = {file: run_of(file) for file in files}
    times = Counter(runs.values())
    alike = [file for file in files if times[runs[file]] > 1]
    depth = range(min((len(file.parts) for file in alike), default=0))
    differing = [i for i in depth if len({file.parts[i] for file in alike}) > 1]
    for file in alike if differing else []:
        *folders, last = (file.with_suffix("").parts[i] for i in differing)
        seed = NUMBERED.fullmatch(last)
        name = seed[1] or "/".join(folders) or file.parts[differing[-1] - 1] if seed else "/".join([*folders, last])
        runs[file] = name, seed[2] if seed else ""
    return runs


def run_of(file: Path) -> tuple[str, str]:
    """Return variant and seed, if any, of A/seed-3/any.csv, A/3.csv, A-seed3.csv, and A.csv."""
    folder, stem = file.parent.name, re.sub(r"(\.[a-z]+)+$", "", file.name, flags=re.IGNORECASE)  # lr0.1.csv.gz: lr0.1
    if of_folder := NUMBERED.fullmatch(folder):
        return of_folder[1] or file.parent.parent.name, of_folder[2]
    if of_file := NUMBERED.fullmatch(stem):
        return of_file[1] or folder, of_file[2]
    return stem, ""
