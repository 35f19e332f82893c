"""Pictures of a folder whose labels are columns of a table: several labels per picture, or quantities."""

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, final

import numpy as np

from vitlab.config import expanded, plain, rows_by_name
from vitlab.data.dataset import Files
from vitlab.data.decoding import PictureMode, read_regular
from vitlab.data.folder import split_of, walk

if TYPE_CHECKING:
    import pandas as pd


@final
class LabelTable(Files):
    """A CSV file with the column `file`, a column of numbers for each label and, optionally, the column `split`.

    It is in UTF-8, with commas, semicolons, tabs or bars between the columns. What pandas writes as the index, a column
    without a name or one called `index` or `id` that numbers the rows, is no label.

    Args:
        table: the CSV file.
        root: folder that `file` is relative to; null: the table's.
        labels: columns of labels; null: all but `file`, `split` and an index.
        mode: how pictures are decoded.
    """

    def __init__(
        self, table: str, root: str | None = None, labels: Sequence[str] | None = None, mode: PictureMode = "RGB"
    ) -> None:
        import pandas as pd  # here, because it takes half a second to import

        table = expanded(table)
        super().__init__(Path(expanded(root) if root else Path(table).parent), mode)
        self.location, rows = table, _read(table)
        names = [str(name) for name in rows if name not in ("file", "split")]
        index = [] if labels else [name for name in names if _is_index(name, rows[name])]
        if index:
            self.notes = [f"Columns of {table} that number its rows and are no labels: {', '.join(index)}."]
        self.class_names = list(labels or [name for name in names if name not in index])
        places = rows_by_name(names, self.class_names)
        missing = [name for name, place in zip(self.class_names, places, strict=True) if place is None]
        if "file" not in rows or missing or not self.class_names:
            what = "file" if "file" not in rows else missing[0] if missing else "of labels"
            raise ValueError(f"{table} has no column {what}; it has {', '.join(map(str, rows))}.")
        if (unnamed := rows["file"] == "").any():
            raise ValueError(f"{table}, line {rows.index[unnamed][0]}: file is empty; give a picture.")
        values = rows[[names[place] for place in places if place is not None]]
        plainly = values.apply(lambda column: column.str.lower().replace({"true": "1", "false": "0"}))
        numbers = plainly.apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        wrong = np.argwhere(~np.isfinite(numbers))
        if len(wrong):
            row, column = wrong[0]
            value = values.iloc[row, column] or "empty"
            raise ValueError(f"{table}, line {rows.index[row]}: {self.class_names[column]} is {value}; give a number.")
        given = rows["split"] if "split" in rows else pd.Series("train", rows.index)
        named = {name: split_of(name.strip()) for name in given.unique()}
        unknown = [name or "empty" for name, split in named.items() if split is None]
        if unknown or "train" not in named.values():
            raise ValueError(f"{table}: split is {unknown[0] if unknown else 'never train'}; give train, val or test.")
        of, files = given.map(named).to_numpy(), np.array(self._on_disk(rows["file"].tolist()), object)
        self.splits = {
            split: (files[of == split].tolist(), numbers[of == split]) for split in named.values() if split is not None
        }

    def _on_disk(self, files: list[str]) -> list[str]:
        """Return the names as the disk has them, which may be in another Unicode form."""
        if all(file.isascii() or (self.root / file).exists() for file in files):
            return files
        there = {plain(name): name for name in (os.path.relpath(path, self.root) for path in walk(self.root))}
        return [file if (self.root / file).exists() else there.get(plain(file), file) for file in files]


def _read(table: str) -> "pd.DataFrame":
    """Return a table of texts as they are written; its index is the line. `File` and `Split` become lower case."""
    import pandas as pd

    try:
        content = read_regular(table)
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        first = content.partition(b"\n")[0].decode("utf-8", "backslashreplace").strip()
        raise ValueError(f"{table} is not in UTF-8: {first[:100]}\nSave it as UTF-8.") from None
    first = text.partition("\n")[0].strip()
    headers = {mark: next(csv.reader([first], delimiter=mark), []) for mark in ",;\t|"}
    found = [mark for mark, names in headers.items() if "file" in (name.strip().lower() for name in names)]
    try:
        rows = pd.read_csv(
            io.StringIO(text), sep=(found or [","])[0], header=None, dtype=str, na_filter=False, skip_blank_lines=False
        )
    except ValueError as error:  # a line of more columns than the first, or no line
        raise ValueError(f"{table}: {str(error).strip()}. Its first line is: {first[:100]}") from None
    names = [str(name).strip() or f"Unnamed: {place}" for place, name in enumerate(rows.iloc[0])]
    names = [name.lower() if name.lower() in ("file", "split") else name for name in names]
    if twice := [name for name, count in Counter(map(plain, names)).items() if count > 1]:
        raise ValueError(f"{table} has the column {twice[0]} twice; rename or remove one.")
    rows.columns, rows.index = pd.Index(names), rows.index + 1
    return rows.iloc[1:][(rows.iloc[1:] != "").any(axis=1)]


def _is_index(name: str, column: "pd.Series[str]") -> bool:
    """Return whether pandas wrote a column as the index, or it numbers the rows as that does."""
    if name.lower() not in ("index", "id"):
        return name.lower().startswith("unnamed:")
    numbers = sorted(map(int, column)) if column.str.fullmatch("[0-9]+").all() else []
    return bool(numbers) and numbers in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))
