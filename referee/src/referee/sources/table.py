"""CSV, JSON lines, JSON records and Parquet with one row for each item or run, as pandas reads them."""

import json
from pathlib import Path

import pandas as pd

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


def recognizes(file: Path, head: bytes) -> bool:
    return file.suffix in SUFFIXES


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return the table; columns of dictionaries, as lighteval's `metric` is, become one column for each key."""
    if file.suffix == ".parquet":
        frame = pd.read_parquet(file)
    elif file.suffix in (".csv", ".tsv"):
        frame = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",")
    else:
        text = file.read_text(encoding="utf-8")
        # Not by splitlines: a text may hold U+2028, which ends no line of JSON.
        records = [line for line in text.split("\n") if line.strip()] if file.suffix == ".jsonl" else None
        content = json.loads(text) if records is None else [json.loads(line) for line in records]
        if isinstance(content, dict) and not any(isinstance(value, list | dict) for value in content.values()):
            content = [content]  # one row
        frame = pd.DataFrame(content)
    if frame.empty:
        raise ValueError("it has no rows")
    nested = [name for name in frame if isinstance(frame[name].iloc[0], dict)]
    parts = [pd.DataFrame(frame[name].tolist(), index=frame.index) for name in nested]
    new = pd.concat(parts, axis=1) if parts else pd.DataFrame(index=frame.index)
    return pd.concat([frame.drop(columns=nested), new.loc[:, ~new.columns.isin(frame.columns)]], axis=1)
