"""Numbers and lists as sentences and tables show them, with a true minus sign."""

import math
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jinja2

NONE = "–"
SPACE = "\u00a0"  # where a line must not break


def signed(value: float, digits: int) -> str:
    """Return a number with a true minus sign; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def percent(fraction: float, digits: int) -> str:
    """Return a fraction as per cent, without the sign."""
    return signed(100 * fraction, digits)


def two_digits(value: float) -> str:
    """Return two significant digits, more only where they are whole, like 0.07, 3.5, 140."""
    return f"{value:,.0f}" if value >= 10 else np.format_float_positional(float(f"{value:.2g}"), trim="-")


def tick(value: float) -> str:
    """Return a round number with k, M, G, T or P, as short as possible, like 5 M."""
    scaled, prefix = prefixed(value)
    return f"{scaled:.6g}{SPACE}{prefix}".rstrip()


def prefixed(value: float) -> tuple[float, str]:
    """Return a number in units of its prefix, and the prefix: k, M, G, T or P."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return value / factor, prefix
    return value, ""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, like 1 seed and 1,200 seeds."""
    return f"{number:,}{SPACE}{noun}{'' if number == 1 else 's'}"


def joined(parts: Sequence[str], word: str = "and") -> str:
    """Return parts as in a sentence: a, b and c."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def listed(names: Sequence[str], shown: int = 4) -> str:
    """Return names, the last of many as a number: a, b, c, d and 3 more."""
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def nearest(name: object, known: Sequence[str]) -> str:
    """Return which of the known names a misspelled one may mean."""
    import difflib

    near = difflib.get_close_matches(str(name), known, n=1)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(known)}."


def by_number(name: str) -> list[str | int]:
    """Return a key that sorts names by their text, and the numbers in them by value."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))]


@cache
def templates(folder: Path) -> "jinja2.Environment":
    """Return the templates `*.html.jinja` and others of a folder, in which a missing value is an error."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",), default=False),
    )  # fmt: skip


def shown_p(p: float) -> str:
    """Return a p-value, as a bound below 0.001."""
    if math.isnan(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
