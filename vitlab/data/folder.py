"""A folder of photographs: which of its folders are splits, which are classes, and which files are images."""

import difflib
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NoReturn, final

import numpy as np

from vitlab import log
from vitlab.config import plain, rows_by_name
from vitlab.data.dataset import SPLITS, Files, Split
from vitlab.data.decoding import IMAGE_SUFFIXES, PictureMode, some

# Names of the splits' folders, in any letter case.
_NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
# Of operating systems, storage and notebooks: copies, thumbnails and what was deleted.
_SYSTEM = ("@eadir", "#recycle", "$recycle.bin", "system volume information", "__macosx")
_MASK = re.compile(r"[_-](mask|seg|segmentation|gt|label)s?$", re.IGNORECASE)  # how the names of masks end
_ONLY = r"If some are masks, leave them out: --data.only '\.jpg$', a regular expression of file names."
_FOLDER = "folder "  # how counted folders begin, among the suffixes of files
_SPLIT_OF = {name: split for split, names in _NAMES.items() for name in names}


@final
class Folder(Files):
    """The images of a folder; see `walk` for `only`. Without folders of splits, everything is the split "train"."""

    def __init__(self, root: Path, mode: PictureMode = "RGB", only: str | None = None) -> None:
        super().__init__(root, mode)
        self.location = str(root)
        places = _places(root)
        train = places["train"]
        classes = _folders(train)
        if len(classes) < 2:
            found = f"one class only, {classes[0]}" if classes else "no folders"
            wanted = f"one folder of images for each class, two or more, e.g. {train}/cat/001.jpg"
            raise ValueError(f"{train} has {found}; expected {wanted}.")
        others = [] if train == root else [name for name in _folders(root) if root / name not in places.values()]
        missing = " or ".join(split for split in SPLITS if split not in places)
        for name in others:
            if missing and _share_a_class(root / name, classes):
                remedy = f"If it is a split, name it {missing}; if not, move it or begin its name with a dot."
                raise ValueError(f"{root / name} has the classes of {train.name}, but not a split's name.\n{remedy}")
        odd = [f"{split} is {place.name}" for split, place in places.items() if place not in (root, root / split)]
        notes = [f"In {root}, {' and '.join(odd)}."] if odd else []
        if others:
            notes.append(f"Folders in {root} that are not splits and are not used: {len(others)} ({some(others)}).")
        whole = Path(os.path.abspath(root))  # a link counts by its own name
        if train == root and split_of(whole.name) and os.access(whole.parent, os.R_OK):
            for name in _folders(whole.parent):  # `photos/val` next to `photos/train` would be split once more
                if split_of(name) not in (None, split_of(whole.name)) and _share_a_class(whole.parent / name, classes):
                    remedy = f"Give the folder of both, {whole.parent}; or, for one, a link with another name."
                    raise ValueError(f"{whole} is one split of {whole.parent}, which also has {name}.\n{remedy}")
        entries = [entry for place in {root, *places.values()} for entry in os.scandir(place)]
        ignored = Counter(f"{_FOLDER}{entry.name}" for entry in entries if _is_hidden(entry.name) and entry.is_dir())
        splits = {split: _images_of(root, place, classes, ignored, only) for split, place in places.items()}
        stems = Counter(_MASK.sub("", os.path.splitext(name)[0]) for names, _ in splits.values() for name in names)
        if twins := [stem for stem, count in stems.items() if count > 1]:
            notes.append(f"Names in {root} of several images each: {len(twins)} ({some(twins, 3)}). {_ONLY}")
        if ignored:
            notes.append(left_out(root, ignored))
        files = (file for place in places.values() for file in os.scandir(place))
        loose = [file.path for file in files if _is_image(file.name) and file.is_file()]
        if loose:
            notes.append(f"Images in {root} outside of class folders, left out: {len(loose)} ({some(loose, 3)}).")
        self.class_names, self.splits, self.notes = classes, splits, notes


def split_of(folder: str) -> Split | None:
    """Return the split that a name customarily means."""
    return _SPLIT_OF.get(folder.lower())


def _places(root: Path) -> dict[Split, Path]:
    """Return the folder of each split that has one."""
    if root.is_file():
        raise NotADirectoryError(f"{root} is a file; data.init_args.root must be a folder of images.")
    if not root.is_dir():
        parent = next((parent for parent in root.parents if parent.is_dir()), Path("."))
        near = difflib.get_close_matches(root.relative_to(parent).parts[0], _folders(parent), n=1)
        hint = f" Did you mean {parent / near[0]}?" if near else ""
        there = f"{parent.resolve()} has {some(_folders(parent)) or 'no folder'}"
        raise FileNotFoundError(f"There is no folder {root}: {there}.{hint} Name yours by --data.root.")
    folders = _folders(root)
    candidates = {split: [name for name in folders if split_of(name) == split] for split in SPLITS}
    for split, names in candidates.items():
        if len(names) > 1:
            wrong = f"{root} has {' and '.join(names)}, and each could be the {split} split"
            raise ValueError(f"{wrong}. Keep one of them, or begin the other's name with a dot.")
    places = {split: root / names[0] for split, names in candidates.items() if names}
    if places and "train" not in places:
        remedy = "Name them train, val and test; if they are classes, put all of them into a folder train."
        raise ValueError(f"{root} has {some(folders)}: splits, of which none is called train.\n{remedy}")
    return places or {"train": root}


def _share_a_class(place: Path, classes: list[str]) -> bool:
    readable = os.access(place, os.R_OK | os.X_OK)  # lost+found is not
    return readable and not {plain(name) for name in classes}.isdisjoint(map(plain, _folders(place)))


def _images_of(
    root: Path, place: Path, classes: list[str], ignored: Counter[str], only: str | None
) -> tuple[list[str], np.ndarray]:
    names, labels, present = list[str](), list[int](), _folders(place)
    rows = rows_by_name(classes, present)
    # In the order of the classes, which another Unicode form of their names changes.
    for label, name in sorted((-1 if row is None else row, name) for row, name in zip(rows, present, strict=True)):
        if label < 0:
            close = difflib.get_close_matches(name, classes, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ValueError(f"{place / name} is a class that {root / 'train'} lacks; it has {some(classes)}.{hint}")
        others: Counter[str] = Counter()
        files = walk(place / name, others, only)
        ignored += others
        if not files:
            remedy = f"Remove the folder or put images into it ({', '.join(IMAGE_SUFFIXES[:5])}, …)."
            raise ValueError(f"{place / name} has no image{but(others)}, so that the class {name} is empty.\n{remedy}")
        names += [os.path.relpath(file, root) for file in files]
        labels += [label] * len(files)
    if not present:
        remedy = "Sort its images as in train, or move it away: `predict --images` takes such a folder."
        raise ValueError(f"{place} has no folder of a class.\n{remedy}")
    return names, np.array(labels, np.int64)


def walk(folder: Path, ignored: Counter[str] | None = None, only: str | None = None) -> list[str]:
    """Return the image files under `folder`, sorted; count the suffixes of other files, and hidden folders.

    With `only`, a regular expression, those whose file names it matches. Links that lead back are not followed.
    """

    def unreadable(error: OSError) -> NoReturn:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); its images would be left out.")

    files, ignored = [], Counter() if ignored is None else ignored
    for place, inner, names in os.walk(folder, onerror=unreadable, followlinks=True):
        ignored.update(f"{_FOLDER}{name}" for name in inner if _is_hidden(name))
        inner[:] = sorted(name for name in inner if not _is_hidden(name) and not _leads_back(place, name))
        for name in sorted(name for name in names if not name.startswith(".")):
            if _is_image(name):
                if only is None or re.search(only, name):
                    files.append(os.path.join(place, name))
            else:
                ignored[os.path.splitext(name)[1].lower()] += 1
    return files


def left_out(folder: Path, ignored: Counter[str]) -> str:
    """Return a remark on what `walk` counted: how many files of which suffix, and the hidden folders."""
    folders = " and hidden folders" if any(kind.startswith(_FOLDER) for kind in ignored) else ""
    return f"Files in {folder} without the name of an image{folders}, which are left out: {_kinds(ignored)}."


def but(ignored: Counter[str]) -> str:
    """Return what a folder without images has instead, for a message; nothing of an empty one."""
    return f" but other files, {_kinds(ignored)}" if ignored else ""


def _kinds(ignored: Counter[str]) -> str:
    kinds = some([f"{count} {suffix or 'without suffix'}" for suffix, count in ignored.most_common()])
    return f"{ignored.total():,} ({kinds})"


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _is_image(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@cache  # logs it once
def _leads_back(place: str, name: str) -> bool:
    """Return whether a folder is a link to one that contains it, which would make the walk endless."""
    path = os.path.join(place, name)
    if not os.path.islink(path):
        return False
    real = Path(os.path.realpath(path))
    back = any(real in (step, *step.parents) for step in (p.resolve() for p in (Path(place), *Path(place).parents)))
    if back:
        log.info(f"{path} is a link to {real}, which contains it, and is left out.")
    return back


def _folders(place: Path) -> list[str]:
    names = sorted(entry.name for entry in os.scandir(place) if entry.is_dir() and not _is_hidden(entry.name))
    return [name for name in names if not _leads_back(str(place), name)]
