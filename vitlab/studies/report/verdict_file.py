"""The verdict of a study for other programs: `verdict.json`, whose keys docs/verdict.md lists."""

import json
import math
from pathlib import Path
from typing import Any

from referee.statistics.intervals import Interval

from vitlab.atomic_files import read_json, write_text
from vitlab.studies.report.claim import word_of
from vitlab.studies.report.remarks import objections, remarks
from vitlab.studies.report.verdict import verdict
from vitlab.studies.results import StudyResults
from vitlab.studies.study import slug

BETTER, OPEN, EQUAL, VOID = "better", "no winner yet", "equal", "not comparable"


def write_verdict(results: StudyResults, folder: Path) -> None:
    """Write verdict.json into a study's folder."""
    record = as_record(results) | {"looks": results.log, "remarks": remarks(results)}
    write_text(folder / "verdict.json", json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def as_record(results: StudyResults) -> dict[str, Any]:
    """Return the verdict in plain values; scores and differences as the report shows them, accuracies in per cent."""
    metric, watch, claim = results.metric, results.watch, results.study.claim
    return {
        "study": results.study.name,
        "headline": verdict(results),
        "verdict": form_of(results),
        "claim": None if claim is None else {"sentence": claim.sentence, "word": word_of(claim, results)},
        "metric": metric.name,
        "test": results.study.test,
        "level": results.level,
        "margin": results.study.margin,
        "look": len(watch.looks) if watch else len(results.earlier_plans) + 1,
        "of": len(results.study.looks) or len(results.earlier_plans) + 1,
        "stop": watch.stop if watch else "fixed",
        "seeds": results.study.seeds,
        "variants": [
            {"variant": result.variant, **_interval(result.score, metric.scale), "seeds": len(result.runs)}
            for result in results.ranking
        ],
        "pairs": [
            {
                "better": pair.better.variant,
                "worse": pair.worse.variant,
                "verdict": BETTER if pair.settled else EQUAL if pair.equal else OPEN,
                **_interval(pair.interval, metric.scale),
                "adjusted_p": None if math.isnan(pair.p) else pair.p,
            }
            for pair in results.pairs
        ],
        "objections": objections(results),
        "failures": {str(run): why for run, why in results.failures},
    }


def standing(run: Path) -> dict[str, Any] | None:
    """Return the verdict on a run's variant in its study, and the headline; None outside of a study."""
    file = run.absolute().parents[1] / "verdict.json"
    if not file.is_file():
        return None
    record = read_json(file)
    own = [row for row in record["variants"] if slug(row["variant"]) == run.absolute().parent.name]
    return {key: record[key] for key in ("study", "metric", "verdict", "headline")} | own[0] if own else None


def form_of(results: StudyResults) -> str:
    """Return which of the forms of a headline a study has."""
    if objections(results):
        return VOID
    against = [pair for pair in results.pairs if pair.better is results.ranking[0]]
    if against and all(pair.settled for pair in against):
        return BETTER
    return EQUAL if against and all(pair.settled or pair.equal for pair in against) else OPEN


def _interval(interval: Interval, scale: int) -> dict[str, float | None]:
    values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(value) else scale * value for name, value in values.items()}
