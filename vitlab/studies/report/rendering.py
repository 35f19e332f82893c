"""The templates of the reports, with the filters that format their numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from vitlab.studies import format as formats
from vitlab.studies.results import Pair
from vitlab.studies.statistics.power import MOST_SEEDS


def render(name: str, context: Mapping[str, Any]) -> str:
    """Fill in one of the templates in this folder; HTML is escaped."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.jinja",), default=False),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "clock": formats.clock,
        "engineering": formats.engineering,
        "p": formats.p_value,
        "percent": formats.percent,
        "bracket": formats.bracket,
        "signed": formats.signed,
        "visible": _visible,
        "needed": _needed,
        "joules": _joules,
        "speed": formats.speed,
        "yaml": formats.as_yaml,
        "counted": formats.counted,
    }
    return templates.get_template(name).render(context)


def _joules(value: float | None) -> str:
    return "not available" if value is None else formats.engineering(value)


def _visible(pair: Pair, digits: int) -> str:
    """Format the smallest difference that the study could detect for a pair, in points."""
    if pair.outlook is None:
        return formats.NONE
    return formats.percent(pair.outlook.visible, digits) if math.isfinite(pair.outlook.visible) else "none"


def _needed(pair: Pair) -> str:
    """Format the sample size that would show a difference as large as measured."""
    if pair.outlook is None:
        return formats.NONE
    if pair.outlook.seeds is not None:
        return formats.counted(pair.outlook.seeds, "seed")
    images = pair.outlook.images
    return f"≥ {formats.counted(images, 'image')}" if images else f"> {formats.counted(MOST_SEEDS, 'seed')}"
