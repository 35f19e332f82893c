"""CSV, JSON lines, JSON records and Parquet with one row for each item or run; what a file has as text stays text."""

import io
import json
from pathlib import Path

import pandas as pd

from referee.outcomes import TEXTS, recognized

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def recognizes(file: Path, head: bytes) -> bool:
    return file.suffix.lower() in SUFFIXES


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return the table; columns of dictionaries, as lighteval's `metric` is, become one column for each key."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        frame = pd.read_parquet(file, dtype_backend="numpy_nullable")  # whose integers beside empty cells stay integers
    elif suffix in (".csv", ".tsv"):
        frame = _of_lines(text_of(file))
    else:
        text = text_of(file)
        # Not by splitlines: a text may hold U+2028, which ends no line of JSON.
        records = [line for line in text.split("\n") if line.strip()] if suffix == ".jsonl" else [text]
        content = [json.loads(record, parse_int=str, parse_float=str) for record in records]
        is_row = isinstance(content[0], dict) and not any(
            isinstance(value, list | dict) for value in content[0].values()
        )
        frame = pd.DataFrame(content if suffix == ".jsonl" or is_row else content[0])
    if frame.empty:
        raise ValueError("it has no rows")
    nested = [name for name in frame if isinstance(frame[name].iloc[0], dict)]
    parts = [pd.DataFrame(frame[name].tolist(), index=frame.index) for name in nested]
    new = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=frame.index)
    return pd.concat([frame.drop(columns=nested), new.loc[:, ~new.columns.isin(frame.columns)]], axis=1)


def text_of(file: Path) -> str:
    """Return the text of a file in UTF-8, in UTF-16 with its mark, or else in Latin-1."""
    content = file.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _of_lines(text: str) -> pd.DataFrame:
    """Return the table of a text, in which the first line shows what separates columns."""
    if "\0" in text:
        raise ValueError(f"line {text[: text.index(chr(0))].count(chr(10)) + 1} has a NUL character")
    separator = max(",;\t", key=text.lstrip().partition("\n")[0].count)
    rows = pd.read_csv(io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False, index_col=False)
    names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(rows.iloc[0].astype(str))]
    if len({*names}) < len(names):
        raise ValueError(f"two columns have the name {max(names, key=names.count)}. Rename or remove one")
    frame = rows[1:].set_axis(names, axis=1).reset_index(drop=True)
    if separator == ";":  # as a European Excel writes, with commas in numbers; names keep theirs
        numbers = frame.columns.difference([name for kind in TEXTS for name in recognized(frame, kind)])
        frame[numbers] = frame[numbers].replace(r"^(\s*[-+]?\d+),(\d+(?:[eE][-+]?\d+)?\s*%?\s*)$", r"\1.\2", regex=True)
    return frame
