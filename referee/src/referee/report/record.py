"""The verdict for other programs: `verdict.json`."""

import math
from collections.abc import Mapping
from typing import Any

from referee.verdict import Verdict, scope


def as_record(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict in plain values; scores and differences as the report shows them, fractions in per cent."""
    shown, watch = verdict.metric.shown, verdict.watch
    variants = [
        {"variant": v.name} | {end: shown(value) for end, value in v.score._asdict().items()} | {"seeds": len(v.runs)}
        for v in verdict.ranking
    ]
    rows = verdict.table().rename(columns={"lead": "mean", "p": "adjusted_p"}).to_dict("records")
    pairs = [row for row, pair in zip(rows, verdict.pairs, strict=True) if verdict.counts(pair)]
    return {
        "headline": verdict.sentence,
        "verdict": verdict.verdict,
        "scope": scope(verdict),
        "metric": verdict.metric.name,
        "test": verdict.design.test,
        "level": verdict.level,
        "margin": None if verdict.margin is None else shown(verdict.margin),
        "look": len(watch.looks) if watch else 1,
        "stop": watch.stop if watch else "fixed",
        "variants": [_known(variant) for variant in variants],
        "pairs": [_known(pair) for pair in pairs],
        "checks": [{"code": check.code, "text": check.text, "void": check.is_void} for check in verdict.checks],
        "notes": verdict.outcomes.notes,
    }


def _known(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return values with None in place of nan and infinity, which JSON has not."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
