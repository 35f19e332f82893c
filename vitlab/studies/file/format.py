"""Number formats of the report: rounded to the resolution of the data, with a true minus sign."""

import math
from typing import Any

import yaml
from referee.formats import SPACE, prefixed, two_digits

UNITS = (("second", 1, 90), ("minute", 60, 5_400), ("hour", 3_600, 172_800), ("day", 86_400, math.inf))  # size, up to


def as_yaml(value: Any) -> str:
    """Return a value of a configuration as its YAML file has it: null, true, 0.001, [1, 2]."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def engineering(value: float, unit: str = "") -> str:
    """Return three significant digits with k, M or G, like 5.36 M."""
    scaled, prefix = prefixed(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(scaled)))) if scaled else 0
    return f"{scaled:,.{decimals}f}{SPACE}{prefix}{unit}".rstrip()


def clock(seconds: float) -> str:
    """Return m:ss, or h:mm:ss from an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def duration(low: float, high: float | None) -> str:
    """Return a range of seconds, like 10 to 35 minutes or 50 minutes to 3 hours; None: open above."""

    def in_unit(seconds: float) -> tuple[str, str]:
        unit, size, _ = next(each for each in UNITS if seconds < each[2])
        number = two_digits(seconds / size)
        return number, f"{SPACE}{unit}" if number == "1" else f"{SPACE}{unit}s"

    first, last = in_unit(low), in_unit(low if high is None else high)
    if high is None:
        return f"{''.join(first)} or more"
    if first == last:
        return "".join(last)
    return f"{first[0]}{'' if first[1] == last[1] else first[1]} to {''.join(last)}"
