"""Formats: the mappings of a study's file with messages for mistakes, and the numbers of its report."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator, model_validator
from referee.formats import SPACE, nearest, prefixed, two_digits

UNITS = (("second", 1, 90), ("minute", 60, 5_400), ("hour", 3_600, 172_800), ("day", 86_400, math.inf))  # size, up to


class Section(BaseModel):
    """A mapping of a study's file, with no other keys and without conversions of types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, value: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        refuse_unknown(value if isinstance(value, dict) else (), known, "key")
        return value


def refuse_unknown(keys: Iterable[Any], known: Sequence[str], what: str) -> None:
    """Raise ValueError for the first key that is not known, with the nearest one that is."""
    for key in keys:
        if key not in known:
            raise ValueError(f"unknown {what} `{key}`. {nearest(key, known)}")


def expected(text: str) -> WrapValidator:
    """Return a validator of a field that says this where pydantic would tell what each type of a union lacks."""

    def validated(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValidationError as error:
            words = [mistake(error, value)] if "value_error" in {each["type"] for each in error.errors()} else []
            raise ValueError(*words or [f"{value!r}. Expected {text}."]) from None

    return WrapValidator(validated)


def mistake(error: ValidationError, value: Any) -> str:
    """Return what is wrong with a value, after the keys of its place: in words of a validator of ours if there are."""
    first = min(error.errors(), key=lambda each: each["type"] != "value_error")
    keys: list[str] = []
    for key in first["loc"]:  # or the name of a type in a union
        if isinstance(value, dict) and key in value:
            keys, value = [*keys, str(key)], value[key]
    if first["type"] == "value_error":
        return ": ".join([*keys, str(first["ctx"]["error"])])
    if first["type"] == "missing":
        return f"{': '.join(keys)}: {value!r} has no `{first['loc'][-1]}`."
    what = "Expected a mapping" if first["type"] == "model_type" else first["msg"].replace("Input", "It")
    return f"{': '.join(keys)}: {first['input']!r}. {what}."


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
