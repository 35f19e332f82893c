"""Every Eval Ever, the schema of evaluation results: records of items in JSON lines, records of scores in JSON."""

import json
from pathlib import Path

import pandas as pd


def recognizes(file: Path, head: bytes) -> bool:
    return b'"schema_version"' in head and b'"evaluation_id"' in head


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return the items of a model, or its scores: of the evaluation that `metric` names, else of the only one."""
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines if line.strip()]
        return pd.DataFrame(
            {
                "variant": [record["model_id"] for record in records],
                "item": [f"{record['evaluation_name']}/{record['sample_id']}" for record in records],
                "correct": [record["evaluation"]["is_correct"] for record in records],
            }
        )
    record = json.loads(file.read_text(encoding="utf-8"))
    scores, known, lower = [], [], None
    for each in record["evaluation_results"]:
        names = [name for name in (each["evaluation_name"], each["metric_config"].get("metric_name")) if name]
        known.append("/".join(names))
        if metric in (None, *names, known[-1]):
            scores.append(each["score_details"]["score"])
            lower = each["metric_config"].get("lower_is_better")
    if len(scores) != 1:
        found = f"{len(scores)} evaluations" + (f" of the name {metric}" if metric else "")
        raise ValueError(f"it has {found}. Give one as --metric: {', '.join(known)}")
    info = record["model_info"]
    frame = pd.DataFrame({"variant": [info.get("id") or info["name"]], metric or "score": scores})
    frame.attrs["lower"] = lower
    return frame
