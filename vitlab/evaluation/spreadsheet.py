"""Names in CSV files that a spreadsheet must not take for formulas: those that begin with = + - @, tab or a line end.

An apostrophe before it makes such a name text (OWASP, "CSV injection"). Class names are those of folders, which may
come from anywhere. Parquet and JSON files have the names as they are.
"""

import csv
import re
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # apostrophes too: else a name that has one would lose it when it is read


def as_csv(table: pd.DataFrame, **options: Any) -> str:
    """Return a table as CSV, with an apostrophe before all text that a spreadsheet would run."""
    inert = _mapped(table, lambda text: f"'{text}" if FORMULA.match(text) else text)
    text: str = inert.to_csv(**options)
    # Python quotes a line feed, but not before 3.13 a return, after which a row would begin.
    return inert.to_csv(**options, quoting=csv.QUOTE_NONNUMERIC) if "\r" in text else text


def exact(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table that `as_csv` was given, from what was read of the file."""
    return _mapped(table, lambda text: text[1:] if text[:1] == "'" and FORMULA.match(text) else text)


def _mapped(table: pd.DataFrame, change: Any) -> pd.DataFrame:
    def of(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    columns = [column if is_numeric_dtype(column) else column.map(of) for _, column in table.items()]
    values = pd.concat(columns, axis=1) if columns else table
    return values.set_axis(table.columns.map(of), axis=1).set_axis(table.index.map(of), axis=0)
