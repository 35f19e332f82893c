"""Numbers and lists as sentences and tables show them, with a true minus sign."""

import math
from collections.abc import Sequence

NONE = "–"
SPACE = "\u00a0"  # where a line must not break


def signed(value: float, digits: int) -> str:
    """Return a number with a true minus sign; a dash for nan."""
    return NONE if math.isnan(value) else f"{value:.{digits}f}".replace("-", "−")


def percent(fraction: float, digits: int) -> str:
    """Return a fraction as per cent, without the sign."""
    return signed(100 * fraction, digits)


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


def p_value(p: float) -> str:
    """Return a p-value, as a bound below 0.001."""
    if math.isnan(p):
        return NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
