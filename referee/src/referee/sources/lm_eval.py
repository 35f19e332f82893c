"""EleutherAI's lm-evaluation-harness: samples_TASK_TIME.jsonl, which `--log_samples` writes into a folder a model."""

import json
import re
from collections import Counter
from pathlib import Path

import pandas as pd


def recognizes(file: Path, head: bytes) -> bool:
    return file.suffix == ".jsonl" and b'"doc_id"' in head and b'"doc"' in head


def read(file: Path, metric: str | None) -> pd.DataFrame:
    """Return item and outcome of each document; the model is the folder, and a repetition the time in the name.

    Of several filters the first is taken. An item is the hash of its text; of equal texts, with the number.
    """
    with file.open(encoding="utf-8") as lines:
        samples = [json.loads(line) for line in lines if line.strip()]
    filters = list(dict.fromkeys(str(sample.get("filter")) for sample in samples))
    samples = [sample for sample in samples if sample.get("filter") == samples[0].get("filter")]
    names = samples[0].get("metrics") or [key for key in samples[0] if key in ("acc", "exact_match", "f1", "bleu")]
    name = metric or next(iter(names), "acc")
    if name not in samples[0]:
        raise ValueError(f"it has no score {name}. Give one as --metric: {', '.join(names or samples[0])}")
    name_of_file = re.fullmatch(r"samples_(.+?)(?:_(20\d\d-\d\d-\d\dT.+))?", file.stem)
    task, time = name_of_file.groups() if name_of_file else (file.stem, None)
    hashes = Counter(sample.get("doc_hash") for sample in samples)
    items = [str(sample.get("doc_hash") or sample["doc_id"]) for sample in samples]
    items = [
        f"{item}/{sample['doc_id']}" if hashes[item] > 1 else item for item, sample in zip(items, samples, strict=True)
    ]
    kind = "correct" if name in ("acc", "exact_match") else name
    frame = pd.DataFrame({"item": [f"{task}/{item}" for item in items], kind: [sample.get(name) for sample in samples]})
    frame.attrs["notes"] = [f"filter {filters[0]}: the first of {', '.join(filters)}."] * (len(filters) > 1)
    return frame.assign(variant=file.parent.name.replace("__", "/"), seed=time or "1")
