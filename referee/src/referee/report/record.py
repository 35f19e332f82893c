"""The verdict for other programs: `verdict.json`."""

import math
from typing import Any

from referee.sentences import scope
from referee.statistics.intervals import Interval
from referee.verdict import Pair, Verdict


def as_record(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict in plain values; scores and differences as the report shows them, fractions in per cent."""
    scale, watch = verdict.metric.scale, verdict.watch
    return {
        "headline": verdict.sentence,
        "verdict": verdict.verdict,
        "scope": scope(verdict),
        "metric": verdict.metric.name,
        "test": verdict.design.test,
        "level": verdict.level,
        "margin": None if verdict.margin is None else scale * verdict.margin,
        "look": len(watch.looks) if watch else 1,
        "stop": watch.stop if watch else "fixed",
        "variants": [{"variant": v.name, **_interval(v.score, scale), "seeds": len(v.runs)} for v in verdict.ranking],
        "pairs": [_pair(pair, scale) for pair in verdict.pairs],
        "checks": [{"code": check.code, "text": check.text, "void": check.is_void} for check in verdict.checks],
        "notes": verdict.outcomes.notes,
    }


def _pair(pair: Pair, scale: int) -> dict[str, Any]:
    return {
        "better": pair.better.name,
        "worse": pair.worse.name,
        "verdict": pair.verdict,
        **_interval(pair.interval, scale),
        "adjusted_p": _number(pair.p),
        "beats_in_one_more_run": _number(pair.chance),
    }


def _interval(interval: Interval, scale: int) -> dict[str, float | None]:
    return {name: _number(scale * value) for name, value in interval._asdict().items()}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
