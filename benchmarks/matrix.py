"""ViT or Swin v2 under each way of training, by four measures of the same runs.

    python -m vitlab compare --config experiments/studies/matrix_digits.yaml
    python -m benchmarks.matrix experiments/studies/matrix_digits.yaml

The study ranks by k-NN. Here each run is probed too, and Swin v2 is compared with the ViT by k-NN, a linear probe, and
a linear classifier with 1 and 10 labels a class; so are the networks before training. Each interval of a lead is over
seeds (Welch's) and alone 95 %: of four times ten, two are expected to miss.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

from benchmarks.measuring import markdown, parser_of
from vitlab.commands import probe
from vitlab.studies.file.study import Study, read_study

Probe = dict[str, Any]

MEASURES: dict[str, Callable[[Probe], float]] = {
    "k-NN": lambda found: found["knn"]["value"],
    "linear": lambda found: found["linear"]["value"],
    "1 label a class": lambda found: {x["name"]: x["value"] for x in found["low_shot"]}["1 label per class"],
    "10 labels a class": lambda found: {x["name"]: x["value"] for x in found["low_shot"]}["10 labels per class"],
}


def probes(study: Study, root: Path, variant: str, weights: str = "last") -> Iterator[Probe]:
    """Yield what the probe finds of each finished run of a variant; `none`: of its weights before training."""
    for summary in sorted(study.folder(root, variant).glob("seed-*/summary.json")):
        if not json.loads(summary.read_text(encoding="utf-8"))["finished"]:
            continue
        file = summary.with_name(f"probe-{weights}.json")
        if not file.is_file():
            with redirect_stdout(StringIO()):
                probe.run(["--config", str(summary.parent), "--ckpt_path", weights])
        yield json.loads(file.read_text(encoding="utf-8"))


def line(title: str, swin: Sequence[Probe], vit: Sequence[Probe], measure: str) -> dict[str, str]:
    """Return a row: the mean of each model's runs, and the lead of Swin v2 with its 95 % interval over seeds."""
    a, b = ([100 * MEASURES[measure](found) for found in each] for each in (swin, vit))
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval()
    means = {"Swin v2": f"{np.mean(a):.1f}", "ViT": f"{np.mean(b):.1f}"}
    return {"": title, **means, "lead": f"{np.mean(a) - np.mean(b):.1f} [{low:.1f}, {high:.1f}]"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of("matrix", __doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="folder of the runs [%(default)s]")
    parser.add_argument("study", type=Path, help="its claim has `along`, with both models")
    options = parser.parse_args(arguments)
    study, root = read_study(options.study), options.root
    assert study.claim is not None
    swin, vit = (study.claim.curves[model] for model in ("Swin v2", "ViT"))
    first, *_ = swin  # of which the networks before training are measured
    found = {"untrained": [list(probes(study, root, each[first], "none")) for each in (swin, vit)]}
    for way in swin:
        found[str(way)] = [list(probes(study, root, each[way])) for each in (swin, vit)]
    for measure in MEASURES:
        print(markdown(f"{measure}, %.", [line(way, *pair, measure) for way, pair in found.items()]))


if __name__ == "__main__":
    main()
