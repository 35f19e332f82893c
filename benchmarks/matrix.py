"""ViT or Swin v2 under each way of training, by four measures of the same runs.

    python -m vitlab compare --config experiments/studies/matrix_digits.yaml
    python -m benchmarks.matrix

The study ranks by k-NN. Here each run is probed too, and Swin v2 is compared with the ViT by k-NN, a linear probe, and
a linear classifier with 1 and 10 labels a class; so are the networks before training. Each interval of a lead is over
seeds and alone 95 %: of four times ten, two are expected to miss.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.table import markdown
from referee import judge
from vitlab.studies.file.study import Study, read_study

STUDY = Path("experiments/studies/matrix_digits.yaml")
MODELS = ("Swin v2", "ViT")  # as in the claim's relations

MEASURES: dict[str, Callable[[dict[str, Any]], float]] = {  # of a run's probe
    "k-NN": lambda probe: probe["knn"]["value"],
    "linear": lambda probe: probe["linear"]["value"],
    "1 label a class": lambda probe: _low_shot(probe, "1 label per class"),
    "10 labels a class": lambda probe: _low_shot(probe, "10 labels per class"),
}


def _low_shot(probe: dict[str, Any], name: str) -> float:
    return next(each["value"] for each in probe["low_shot"] if each["name"] == name)


def probes(study: Study, root: Path, variant: str, weights: str) -> Iterator[dict[str, Any]]:
    """Yield the probe of each finished run of a variant, of its last weights or of none; probe those that are not."""
    for summary in sorted(study.folder(root, variant).glob("seed-*/summary.json")):
        if not json.loads(summary.read_text(encoding="utf-8"))["finished"]:
            continue
        file = summary.with_name(f"probe-{weights}.json")
        if not file.is_file():
            command = [sys.executable, "-m", "vitlab", "probe", "--config", str(summary.parent), "--ckpt_path", weights]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield json.loads(file.read_text(encoding="utf-8"))


def line(title: str, pair: Sequence[list[dict[str, Any]]], measure: str) -> dict[str, str]:
    """Return a row: the mean of each model's probes, and the lead of Swin v2 with its 95 % interval over seeds."""
    scores = [[100 * MEASURES[measure](probe) for probe in each] for each in pair]
    runs = [(model, seed, score) for model, each in zip(MODELS, scores, strict=True) for seed, score in enumerate(each)]
    (found,) = judge(pd.DataFrame(runs, columns=["variant", "seed", "score"])).table().itertuples()
    sign = 1 if found.better == MODELS[0] else -1
    low, high = sorted((sign * found.low, sign * found.high))
    means = {model: f"{sum(each) / len(each):.1f}" for model, each in zip(MODELS, scores, strict=True)}
    return {"": title, **means, "lead": f"{sign * found.lead:.1f} [{low:.1f}, {high:.1f}]"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Probe the runs, and print a table for each measure."""
    parser = argparse.ArgumentParser("python -m benchmarks.matrix", description=__doc__.partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of the runs [%(default)s]")
    root = parser.parse_args(arguments).root
    study = read_study(STUDY)
    assert study.claim is not None
    pairs = [(each.first, each.second) for each in study.claim.relations]
    found = {"untrained": [list(probes(study, root, name, "none")) for name in pairs[0]]}
    for pair in pairs:
        found[pair[0].partition(" with ")[2]] = [list(probes(study, root, name, "last")) for name in pair]
    for measure in MEASURES:
        rows = [line(title, pair, measure) for title, pair in found.items()]
        print(markdown(f"{measure}, %.", rows))


if __name__ == "__main__":
    main()
