"""The record of each look at a study's test results, `looks.jsonl` in the study's folder.

Whoever looks more often, or extends a list of seeds after a look, finds more leads by chance.
"""

import json
import time
from pathlib import Path
from typing import Any

from vitlab.studies.report.verdict import verdict
from vitlab.studies.results import StudyResults

FIXED = "fixed"  # how a study of a fixed list of seeds ends


def read_looks(folder: Path) -> list[dict[str, Any]]:
    """Return the looks so far, the first one first."""
    path = folder / "looks.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append_look(results: StudyResults, folder: Path) -> None:
    """Record what a look shows."""
    watch, metric = results.watch, results.metric
    look = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "look": len(watch.looks) if watch else len(results.earlier_plans) + 1,
        "of": len(results.study.looks) or len(results.earlier_plans) + 1,
        "plan": results.study.seeds,
        "seeds": {result.variant: len(result.runs) for result in results.ranking},
        "failures": {str(run): why for run, why in results.failures},
        "level": results.level,
        "headline": verdict(results),
        "pairs": [
            {
                "better": pair.better.variant,
                "worse": pair.worse.variant,
                "lead": metric.scale * pair.lead,
                "p": None if pair.difference is None else pair.p,
                "settled": pair.settled,
                "equal": pair.equal,
            }
            for pair in results.pairs
        ],
        "stop": watch.stop if watch else FIXED,
    }
    with (folder / "looks.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(look, ensure_ascii=False) + "\n")


def look_of(results: StudyResults) -> str:
    """Return which look this is, like "Look 4 of at most 7"; empty for a fixed list of seeds."""
    if results.watch is None:
        return ""
    return f"Look {len(results.watch.looks)} of at most {len(results.study.looks)}"
