"""UK AISI's Inspect: a log in JSON, or an .eval archive of one. An epoch, which repeats every sample, is a seed."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd


def recognizes(file: Path, head: bytes) -> bool:
    return file.suffix == ".eval" or (file.suffix == ".json" and b'"eval"' in head and b'"task"' in head)


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item and score of each sample, by the scorer that `metric` names, else the first."""
    model, samples = _log(file)
    scores = [sample.get("scores") or {} for sample in samples]  # a sample with an error has none
    scorers = list(dict.fromkeys(scorer for each in scores for scorer in each))
    if not scorers:
        raise ValueError("no sample of the log has a score")
    if metric not in (None, *scorers):
        raise ValueError(f"it has no scorer {metric}. Give one as --metric: {', '.join(scorers)}")
    values = [each.get(metric or scorers[0], {}).get("value") for each in scores]
    kind = "correct" if all(isinstance(value, str | bool | None) for value in values) else "score"
    seeds, items = [sample.get("epoch", 1) for sample in samples], [sample["id"] for sample in samples]
    frame = pd.DataFrame({"variant": model, "seed": seeds, "item": items, metric or kind: values})
    frame.attrs["lower"] = False
    return frame


def _log(file: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return the name of the model, and the samples."""
    if file.suffix == ".json":
        log = json.loads(file.read_text(encoding="utf-8"))
        return str(log["eval"]["model"]), log.get("samples") or []
    with zipfile.ZipFile(file) as archive:
        header = json.loads(archive.read("header.json"))
        names = [name for name in archive.namelist() if name.startswith("samples/")]
        return str(header["eval"]["model"]), [json.loads(archive.read(name)) for name in names]
