"""Result files of one tool each → the table of outcomes. A file is one run unless it says otherwise."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

import pandas as pd

from referee.outcomes import Outcomes, from_frame
from referee.sources import every_eval_ever, inspect_log, lm_eval, logs, openml, table, timm
from referee.sources.paths import Files, expanded, named_by_path

# In this order: the first that recognizes a file reads it; a table recognizes every file that pandas can read.
SOURCES: Sequence[ModuleType] = (every_eval_ever, lm_eval, inspect_log, openml, timm, table)
HEAD = 4_000  # bytes by which a file is recognized
NO_LOGS = (".md", ".png", ".jpg", ".svg", ".pdf", ".html")  # which folders of logs may have too


def read(
    places: Iterable[str | Path],
    metric: str | None = None,
    lower: bool | None = None,
    columns: Mapping[str, str] | None = None,
    pattern: str | None = None,
    pick: str | None = None,
) -> Outcomes:
    """Read result files.

    Args:
        places: files; folders, of which all files are read; or paths with {variant} and {seed} in place of names.
        metric: the column or the name of the score.
        lower: Whether a lower score is better; None: as the name of the metric says.
        columns: names of columns, see `from_frame`.
        pattern: a regular expression whose first group is the score in a log.
        pick: which of the matches in a log: last, the default, or best; last is also the last row of each run.

    Raises:
        ValueError, FileNotFoundError: nothing can be read; the message names the file, the place and the remedy.
    """
    if pick not in (None, "last", "best"):
        raise ValueError(f"pick {pick}: give last or best.")
    if pattern is not None:
        lower = logs.is_lower(pattern, metric, lower)
    files, left_out = found(places, pattern)
    frames, notes = {}, []
    for file in files:
        try:
            if pattern is not None:
                frames[file] = logs.read(file, pattern, pick or "last", bool(lower))
            else:
                frames[file] = reader_of(file).read(file, metric)
                notes += frames[file].attrs.pop("notes", [])
        except (ValueError, KeyError, TypeError, AttributeError, BadZipFile, RecursionError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else reason
            raise ValueError(f"{file} cannot be read: {reason}") from error
    told = {frame.attrs.pop("lower", None) for frame in frames.values()}
    lower = lower if lower is not None or len(told) > 1 else told.pop()
    named, of_paths = named_by_path(frames, files, columns or {})
    rows = [frame.reset_index(drop=True) for frame in named]
    table = pd.concat(rows, keys=[str(file) for file in frames]) if len(rows) > 1 else named[0]
    outcomes = from_frame(table, metric, lower, columns, pick == "last")
    outcomes.notes.extend([*of_paths, *dict.fromkeys(notes), *left_out])
    return outcomes


def found(places: Iterable[str | Path], pattern: str | None = None) -> tuple[Files, list[str]]:
    """Return the result files of some places, and notes on what is left out of folders: what no reader is for."""

    def is_result(file: Path) -> bool:
        if pattern is not None:
            return file.suffix.lower() not in NO_LOGS
        with suppress(ValueError):
            return reader_of(file) is not None
        return False

    return expanded(places, is_result)


def reader_of(file: Path) -> ModuleType:
    """Return the source that reads a file."""
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    reader = next((source for source in SOURCES if source.recognizes(file, head)), None)
    if reader is None:
        raise ValueError(
            f"no format is known for {file.suffix or 'a file without a suffix'}. Give CSV, JSON lines or Parquet, or "
            "--read REGEX for a log."
        )
    return reader
