"""The log of a training: the score is what a regular expression finds, the last time or the best."""

import math
import re
from pathlib import Path

import pandas as pd

from referee.metric import mode_of


def read(file: Path, pattern: str, pick: str, lower: bool) -> pd.DataFrame:
    """Return the score of a run; nan if the log has none, as of a run that failed."""
    texts = score_in(pattern).findall(file.read_text(encoding="utf-8", errors="replace"))
    scores = [float(text) for text in texts]
    if pick == "best":
        scores = sorted((score for score in scores if not math.isnan(score)), reverse=lower)
    return pd.DataFrame({"score": scores[-1:] or [math.nan]})


def is_lower(pattern: str, metric: str | None, lower: bool | None) -> bool:
    """Return whether a lower score is better: as told, or as the metric's name or the expression says."""
    score_in(pattern)
    mode = mode_of(metric, pattern)
    if lower is None and mode is None:
        raise ValueError(f"--read {pattern!r}: is a higher or a lower score better? Give --higher or --lower.")
    return mode == "min" if lower is None else lower


def score_in(pattern: str) -> re.Pattern[str]:
    """Return the expression, which has one group, the score."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--read {pattern!r} is not a regular expression ({error})") from None
    if expression.groups > 1:
        raise ValueError(f"--read {pattern!r} has {expression.groups} groups; put parentheses around the score alone")
    if not expression.groups:
        raise ValueError(f"--read {pattern!r} has no group; put the score in parentheses, like 'val_loss:(\\S+)'")
    return expression
