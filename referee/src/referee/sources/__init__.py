"""Result files of one tool each → the table of outcomes. A file is one run unless it says otherwise."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from zipfile import BadZipFile

import pandas as pd

from referee.outcomes import Outcomes, from_frame
from referee.sources import every_eval_ever, inspect_log, lm_eval, logs, openml, table, timm
from referee.sources.paths import expanded, named_by_path

# In this order: the first that recognizes a file reads it; a table recognizes every file that pandas can read.
SOURCES: Sequence[ModuleType] = (every_eval_ever, lm_eval, inspect_log, openml, timm, table)
HEAD = 4_000  # bytes by which a file is recognized


def read(
    places: Iterable[str | Path],
    metric: str | None = None,
    lower: bool = False,
    columns: Mapping[str, str] | None = None,
    pattern: str | None = None,
    pick: str = "last",
) -> Outcomes:
    """Read result files.

    Args:
        places: files; folders, of which all files are read; or paths with {variant} and {seed} in place of names.
        metric: the column or the name of the score.
        lower: Whether a lower score is better.
        columns: names of columns, see `from_frame`.
        pattern: a regular expression whose first group is the score in a log.
        pick: which of the matches in a log: last, or best.

    Raises:
        ValueError, FileNotFoundError: nothing can be read; the message names the file, the place and the remedy.
    """
    if pick not in ("last", "best"):
        raise ValueError(f"pick {pick}: give last or best.")
    files = expanded(places)
    frames = {}
    for file in files:
        try:
            if pattern is None:
                frames[file] = reader_of(file).read(file, metric)
            else:
                frames[file] = logs.read(file, pattern, pick, lower)
        except (ValueError, KeyError, TypeError, AttributeError, BadZipFile) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file} cannot be read: {reason}") from error
    named, notes = named_by_path(frames, files, columns or {})
    rows = [frame.reset_index(drop=True) for frame in named]
    table = pd.concat(rows, keys=[str(file) for file in frames]) if len(rows) > 1 else named[0]
    outcomes = from_frame(table, metric, lower, columns)
    outcomes.notes.extend(notes)
    return outcomes


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
