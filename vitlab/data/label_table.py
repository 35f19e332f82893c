"""Pictures of a folder whose labels are columns of a table: several labels per picture, or quantities."""

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np

from vitlab.data.decoding import PictureMode
from vitlab.data.folder import Files, split_of


@final
class LabelTable(Files):
    """A CSV file with the column `file`, a column of numbers for each label and, optionally, the column `split`.

    Args:
        table: the CSV file.
        root: folder that `file` is relative to; null: the table's.
        labels: columns of labels; null: all but `file` and `split`.
        mode: how pictures are decoded.
    """

    def __init__(
        self, table: str, root: str | None = None, labels: Sequence[str] | None = None, mode: PictureMode = "RGB"
    ) -> None:
        import pandas as pd  # here, because it takes half a second to import

        try:
            rows = pd.read_csv(table, dtype={"file": str, "split": str})
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no table {table}.") from None
        super().__init__(Path(root) if root else Path(table).parent, mode)
        self.location = table
        self.class_names = list(labels or (str(name) for name in rows.columns if name not in ("file", "split")))
        missing = [name for name in ("file", *self.class_names) if name not in rows.columns]
        if missing or not self.class_names:
            raise ValueError(
                f"{table} has no column {missing[0] if missing else 'of labels'}; it has {', '.join(rows.columns)}."
            )
        if (unnamed := rows["file"].isna().to_numpy()).any():
            raise ValueError(f"{table}, line {unnamed.argmax() + 2}: file is empty; give a picture.")
        numbers = rows[self.class_names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float32)
        wrong = np.argwhere(~np.isfinite(numbers))
        if len(wrong):
            row, column = wrong[0]
            value = rows[self.class_names[column]].iloc[row]
            raise ValueError(f"{table}, line {row + 2}: {self.class_names[column]} is {value}; give a number.")
        given = rows["split"] if "split" in rows.columns else pd.Series("train", rows.index)
        named = {str(name): split_of(str(name)) for name in given.unique()}
        unknown = [name for name, split in named.items() if split is None]
        if unknown or "train" not in named.values():
            raise ValueError(f"{table}: split is {unknown[0] if unknown else 'never train'}; give train, val or test.")
        of, files = given.map(named).to_numpy(), rows["file"].to_numpy()
        self.splits = {
            split: (files[of == split].tolist(), numbers[of == split]) for split in named.values() if split is not None
        }
