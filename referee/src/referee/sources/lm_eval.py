"""EleutherAI's lm-evaluation-harness: samples_TASK_TIME.jsonl, which `--log_samples` writes into a folder a model."""

import json
import re
from pathlib import Path

import pandas as pd


def recognizes(file: Path, head: bytes) -> bool:
    return file.suffix == ".jsonl" and b'"doc_id"' in head and b'"doc"' in head


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item and outcome of each document; the model is the folder, and a repetition the time in the name.

    Of several filters of the answers the first is taken.
    """
    with file.open(encoding="utf-8") as lines:
        samples = [json.loads(line) for line in lines if line.strip()]
    samples = [sample for sample in samples if sample.get("filter") == samples[0].get("filter")]
    names = samples[0].get("metrics") or [key for key in samples[0] if key in ("acc", "exact_match", "f1", "bleu")]
    name = metric or next(iter(names), "acc")
    if name not in samples[0]:
        raise ValueError(f"it has no score {name}. Give one as --metric: {', '.join(names or samples[0])}")
    name_of_file = re.fullmatch(r"samples_(.+?)(?:_(20\d\d-\d\d-\d\dT.+))?", file.stem)
    task, time = name_of_file.groups() if name_of_file else (file.stem, None)
    return pd.DataFrame(
        {
            "variant": file.parent.name.replace("__", "/"),
            "seed": time or "1",
            "item": [f"{task}/{sample.get('doc_hash') or sample['doc_id']}" for sample in samples],
            "correct" if name in ("acc", "exact_match") else name: [sample[name] for sample in samples],
        }
    )
