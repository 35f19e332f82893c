"""Photographs that a table lists with their labels: a class, several labels, or quantities."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from vitlab.config import expanded, plain
from vitlab.data.dataset import Files, Labels, Split, numbers_of
from vitlab.data.decoding import PictureMode
from vitlab.data.folder import split_of, walk
from vitlab.data.tables import Columns, column, matched, read_table

if TYPE_CHECKING:
    import pandas as pd


@final
class LabelTable(Files):
    """A CSV, TSV or Parquet file with a row for each photograph, see `read_table`.

    Columns have usual names (`USUAL`) or are given. One column of labels has classes, by name or number; several labels
    of an image, between bars (`cat|dog`); or a quantity, if not all numbers are whole. Several columns are labels of 0
    and 1, or quantities: those given as a list, or all others where none has a usual name. What pandas writes as the
    index, a column without a name or one called `index` or `id` that numbers the rows, is no label.

    A row names its photograph as in `matched`.

    Args:
        root: folder of the photographs; null, or without them: the table's.
        columns: names of the columns file, label, split and group; of label also a list.
        mode, only: how pictures are decoded, and which, see `ImageFolder`.
    """

    def __init__(
        self,
        table: str,
        root: str | None = None,
        columns: Columns | None = None,
        mode: PictureMode = "RGB",
        only: str | None = None,
    ) -> None:
        self.location = table = expanded(table)
        rows, given = read_table(table), columns or Columns()
        names, wanted = [*rows], given.get("label")
        roles: tuple[Literal["file", "split", "group"], ...] = "file", "split", "group"
        found = {role: column(table, names, role, given.get(role)) for role in roles}
        label = column(table, names, "label", wanted) if wanted is None or isinstance(wanted, str) else None
        rest = [name for name in names if name not in found.values() and not _is_index(name, rows[name])]
        labels = [label] if label else [column(table, names, "label", each) or each for each in wanted or rest]
        if not labels:
            raise ValueError(f"{table} has no column of labels; it has {', '.join(names)}.")
        listed = rows.duplicated([str(found["file"]), *labels, *([found["split"]] if found["split"] else [])])
        rows = rows[~listed]
        used = [f"{name} ({role})" for role, name in found.items() if name] + [f"{name} (label)" for name in labels]
        unused = [name for name in names if name not in {*found.values(), *labels}]
        self.notes = [f"Columns of {table}: {', '.join(used)}{'; not used: ' * bool(unused)}{', '.join(unused)}."]
        if listed.any():
            self.notes.append(f"Rows of {table} that name a file again with the same label, left out: {listed.sum()}.")
        self.grouping = f"{table}:{found['group']}" if found["group"] else None

        place, files = _locate(table, rows[str(found["file"])], [Path(expanded(root))] if root else [], only)
        super().__init__(place, mode)
        of = np.full(len(rows), "train", object)
        if found["split"]:
            named: dict[str, Split | None] = {each: split_of(each) for each in rows[found["split"]].unique()}
            unknown = [each or "empty" for each, split in named.items() if split is None]
            if unknown or "train" not in named.values():
                value = unknown[0] if unknown else "never train"
                raise ValueError(f"{table}: split is {value}; give train, val or test.")
            of = rows[found["split"]].map(named).to_numpy(object)
        self.class_names, numbers = (
            _labels(table, rows, label, of) if label else (labels, _numbers(table, rows[labels]))
        )
        at = {split: np.flatnonzero(of == split) for split in dict.fromkeys(of.tolist())}
        self.splits = {split: ([files[i] for i in rows], numbers[rows]) for split, rows in at.items()}


def listed_files(table: str) -> list[Path]:
    """Return the photographs that a table lists, whose labels it need not have."""
    rows = read_table(table)
    place, files = _locate(table, rows[str(column(table, [*rows], "file"))].drop_duplicates(), [])
    return [place / file for file in files]


def _locate(
    table: str, written: "pd.Series[str]", places: list[Path], only: str | None = None
) -> tuple[Path, list[str]]:
    """Return the first folder, the table's last, that has one of the photographs, and their names below it."""
    for wrong, why in ((written == "", "empty; give a picture"), (written.duplicated(), "there twice; keep one row")):
        if wrong.any():
            line = written.index[wrong][0]
            raise ValueError(f"{table}, line {line}: {written.name} {written[line]} is {why}.".replace("  ", " "))
    names, places = written.tolist(), [*places, Path(table).parent]
    for place in places:
        if all((place / name).is_file() for name in names):
            return place, names
        there = [os.path.relpath(path, place) for path in walk(place, only=only)] if place.is_dir() else []
        if any(found := matched(names, there)):
            return place, [own or name for own, name in zip(found, names, strict=True)]
    searched = " or ".join(str(place.resolve()) for place in places)
    what = f"{table}: {searched} has no {names[0]}, nor another of its files, or several of each name"
    raise ValueError(f"{what}. Give data.root, or data.only where masks lie beside.")


def _labels(table: str, rows: "pd.DataFrame", name: str, of: np.ndarray) -> tuple[list[str], Labels]:
    """Return class names and labels of one column."""
    import pandas as pd

    values = rows[name]
    if (values == "").any():
        raise ValueError(f"{table}, line {rows.index[values == ''][0]}: {name} is empty; give a class.")
    if values.str.contains("|", regex=False).any():
        several = values.str.get_dummies("|")
        return [*several], several.to_numpy(np.float32)
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all() and (numbers % 1 != 0).any():
        return [name], numbers.to_numpy(np.float32)[:, None]
    values = values.map(plain)
    whole = values.str.fullmatch("-?[0-9]+").all()
    classes = sorted(values[of == "train"].unique(), key=int if whole else str)
    for split in dict.fromkeys(of.tolist()):  # a class without a training image is refused
        numbers_of(table, classes, split, sorted(values[of == split].unique()))
    return classes, values.map({name: k for k, name in enumerate(classes)}).to_numpy(np.int64)


def _numbers(table: str, values: "pd.DataFrame") -> np.ndarray:
    """Return columns as numbers, true and false as 1 and 0."""
    import pandas as pd

    plainly = values.apply(lambda column: column.str.lower().replace({"true": "1", "false": "0"}))
    numbers = plainly.apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
    if len(wrong := np.argwhere(~np.isfinite(numbers))):
        row, place = wrong[0]
        value = values.iloc[row, place] or "empty"
        raise ValueError(f"{table}, line {values.index[row]}: {values.columns[place]} is {value}; give a number.")
    return numbers


def _is_index(name: str, values: "pd.Series[str]") -> bool:
    """Return whether pandas wrote a column as the index, or it numbers the rows as that does."""
    if name.lower() not in ("index", "id"):
        return name.lower().startswith("unnamed:")
    numbers = sorted(map(int, values)) if values.str.fullmatch("[0-9]+").all() else []
    return bool(numbers) and numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
